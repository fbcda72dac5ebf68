"""Folders of real files: classes, captions, and what is odd about them."""

import csv
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.captions import Caption
from pixeldit_jax.data.sources import open_source


def save(path, value=0, size=(12, 10)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (value,) * 3).save(path)


def test_class_folders(tmp_path):
  save(tmp_path / 'rose' / 'b.png', 1)
  save(tmp_path / 'rose' / 'deep' / 'a.JPEG', 2)
  save(tmp_path / 'daisy' / 'c.webp', 3)
  (tmp_path / 'rose' / 'notes.rtf').write_text('x')
  save(tmp_path / '.hidden' / 'x.png', 4)
  save(tmp_path / 'rose' / '._b.png', 4)
  source = open_source.open_source(f'folder:{tmp_path}')
  assert source.class_names == ('daisy', 'rose') and not source.captions
  assert [(source[i]['name'], source[i]['label']) for i in range(3)] == [
    ('daisy/c.webp', 0), ('rose/b.png', 1), ('rose/deep/a.JPEG', 1),
  ]  # fmt: skip
  pixels = np.asarray(transforms.decode(source[1]['image']))
  assert pixels.shape == (10, 12, 3) and (pixels == 1).all()


def test_a_class_may_be_a_link(tmp_path):
  save(tmp_path / 'elsewhere' / 'x.png')
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'a').symlink_to(tmp_path / 'elsewhere')
  source = open_source.open_source(f'folder:{tmp_path}/data')
  assert source[0]['name'] == 'a/x.png'


def test_an_empty_class_and_loose_images_are_named(tmp_path, caplog):
  save(tmp_path / 'b' / 'x.png')
  save(tmp_path / 'lost.png')
  (tmp_path / 'a').mkdir()
  with caplog.at_level('WARNING'):
    source = open_source.open_source(f'folder:{tmp_path}')
  assert len(source) == 1
  assert source.class_names == ('a', 'b') and source[0]['label'] == 1
  assert 'no image for 1 classes: a' in caplog.text
  assert 'lost.png' in caplog.text


def test_kinds_of_files_that_are_not_read_are_counted(tmp_path, caplog):
  save(tmp_path / 'a' / 'x.png')
  for name in ('y.heic', 'z.heic', 'w', 'x.txt', 'x.json', '.DS_Store'):
    (tmp_path / 'a' / name).write_text('')
  (tmp_path / 'metadata.csv').write_text('file_name,text\n')
  with caplog.at_level('WARNING'):
    source = open_source.open_source(f'folder:{tmp_path}')
  assert len(source) == 1
  assert '3 files that are no images by their names' in caplog.text
  assert '.heic (2), no suffix (1)' in caplog.text


def test_folders_that_cannot_serve_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    open_source.open_source(f'folder:{tmp_path}/nowhere')
  with pytest.raises(ValueError, match='<class>/<image>'):
    open_source.open_source(f'folder:{tmp_path}')


def test_names_of_any_letters(tmp_path):
  save(tmp_path / 'rösti 1' / 'ä,b.png', 5)
  source = open_source.open_source(f'folder:{tmp_path}')
  assert source.class_names == ('rösti 1',)
  assert source[0]['name'] == 'rösti 1/ä,b.png'


def test_names_that_are_no_text_are_told(tmp_path, caplog):
  save(tmp_path / 'a' / 'x.png')
  save(tmp_path / 'a' / os.fsdecode(b'\xff.png'))
  with caplog.at_level('WARNING'):
    assert len(open_source.open_source(f'folder:{tmp_path}')) == 1
  assert "'a/\\udcff.png' is not UTF-8 (1)" in caplog.text
  save(tmp_path / os.fsdecode(b'\xfe') / 'x.png')
  with pytest.raises(ValueError, match=r"class '\\udcfe' is not UTF-8"):
    open_source.open_source(f'folder:{tmp_path}')


def test_a_source_is_small_to_pickle(tmp_path):
  for i in range(50):
    save(tmp_path / 'a' / f'{i:03d}.png', i)
  source = open_source.open_source(f'folder:{tmp_path}')
  data = pickle.dumps(source)
  assert len(data) < 50 * 20 + 1000
  assert pickle.loads(data)[7] == source[7]


def test_captions_beside_images(tmp_path, caplog):
  save(tmp_path / 'a.png')
  (tmp_path / 'a.txt').write_text('a cat\n')
  save(tmp_path / 'deep' / 'b.png')
  (tmp_path / 'deep' / 'b.json').write_text(json.dumps({'prompt': 'ein Bär'}))
  save(tmp_path / 'deep' / 'c.png')
  with caplog.at_level('WARNING'):
    source = open_source.open_source(f'images:{tmp_path}')
  assert '1 of 3 images have no caption' in caplog.text
  assert source.captions and source.num_classes == 0
  examples = [source[i] for i in range(3)]
  given = [e['captions'] for e in examples]
  assert given == [[Caption('a cat')], [Caption('ein Bär')], []]
  assert [e['label'] for e in examples] == [-1] * 3


@pytest.mark.parametrize('table', ['metadata.csv', 'metadata.jsonl'])
def test_captions_in_a_table(tmp_path, table, caplog):
  save(tmp_path / 'k' / 'a.png')
  save(tmp_path / 'k' / 'b.png')
  (tmp_path / 'k' / 'b.txt').write_text('beside')
  rows = [
    {'file_name': 'k/a.png', 'text': 'one, "two"', 'kind': 'human'},
    {'file_name': 'k/a.png', 'text': 'two', 'kind': 'vlm', 'score': 0.5},
    {'file_name': 'gone.png', 'text': 'x'},
  ]
  with open(tmp_path / table, 'w', newline='', encoding='utf-8-sig') as file:
    if table.endswith('.csv'):
      writer = csv.DictWriter(file, ['file_name', 'text', 'kind', 'score'])
      writer.writeheader()
      writer.writerows(rows)
    else:
      file.write('\n'.join(map(json.dumps, rows)))
  with caplog.at_level('WARNING'):
    source = open_source.open_source(f'folder:{tmp_path}')
  assert 'captions of 1 files that are no images here: gone.png' in caplog.text
  assert pickle.loads(pickle.dumps(source))[0]['captions'] == [
    Caption('one, "two"', 'human'),
    Caption('two', 'vlm', 0.5),
  ]
  assert source[1]['captions'] == [Caption('beside')]
  assert source[0]['label'] == 0


def test_a_table_without_the_column_is_refused(tmp_path):
  save(tmp_path / 'a.png')
  (tmp_path / 'metadata.csv').write_text('file,text\na.png,x\n')
  with pytest.raises(ValueError, match="row 1: .*; 'file_name'"):
    open_source.open_source(f'images:{tmp_path}')
  table = 'file_name,text,score\na.png,x,0.5\na.png,y,good\n'
  (tmp_path / 'metadata.csv').write_text(table)
  with pytest.raises(ValueError, match='row 2: .*good'):
    open_source.open_source(f'images:{tmp_path}')


def test_a_broken_caption_is_a_bad_example(tmp_path):
  save(tmp_path / 'a.png')
  (tmp_path / 'a.json').write_text('{"capti')
  source = open_source.open_source(f'images:{tmp_path}')
  with pytest.raises(transforms.BadExample, match='a.json'):
    source[0]


@pytest.mark.parametrize(
  'name', ['0.jpg.txt', '0.caption', '0.TXT', '0.jpg.json', '0.Txt']
)
def test_sidecars_go_by_many_names(tmp_path, name):
  save(tmp_path / '0.jpg')
  text = '{"caption": "a cat"}' if name.endswith('json') else 'a cat\n'
  (tmp_path / name).write_text(text)
  source = open_source.open_source(f'images:{tmp_path}')
  assert source[0]['captions'] == [Caption('a cat')]


def test_json_without_a_caption_gives_way_to_the_text(tmp_path):
  save(tmp_path / '0.jpg')
  (tmp_path / '0.json').write_text('{"width": 3}')
  (tmp_path / '0.txt').write_text('a cat')
  source = open_source.open_source(f'images:{tmp_path}')
  assert source[0]['captions'] == [Caption('a cat')]


@pytest.mark.parametrize('delimiter', [',', '|', '| '])
def test_tables_as_flickr_has_them(tmp_path, delimiter):
  save(tmp_path / '0.jpg')
  rows = [('image', 'comment_number', 'caption'), ('0.jpg', '0', 'a cat')]
  table = ''.join(delimiter.join(row) + '\n' for row in rows)
  (tmp_path / 'captions.txt').write_text(table)
  source = open_source.open_source(f'images:{tmp_path}')
  assert source[0]['captions'] == [Caption('a cat')]


def test_captions_that_no_image_takes_are_counted(tmp_path, caplog):
  save(tmp_path / '0.jpg')
  for i in range(5):
    (tmp_path / f'{i}_long.json').write_text('{}')
  open_source.open_source(f'images:{tmp_path}')
  assert '5 files of captions belong to no image' in caplog.text
  assert '0_long.json, 1_long.json, 2_long.json; read are' in caplog.text
