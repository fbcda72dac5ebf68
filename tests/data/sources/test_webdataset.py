"""Tars that WebDataset and img2dataset wrote, and WIDS indexes."""

import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from pixeldit_jax.data.sources import open_source, webdataset
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

FILES = pathlib.Path(__file__).parent / 'files'


def write(path, members):
  path.parent.mkdir(exist_ok=True)
  with tarfile.open(path, 'w') as file:
    for name, data in members:
      data = data if isinstance(data, bytes) else data.encode()
      member = tarfile.TarInfo(name)
      member.size = len(data)
      file.addfile(member, io.BytesIO(data))
  return path


def test_imagenets_form_as_webdataset_writes_it(tmp_path, encode, read):
  wds = pytest.importorskip('webdataset')
  images = [encode(i, 9 + i, form='JPEG') for i in range(25)]
  pattern = str(tmp_path / 'imagenet-train-%06d.tar')
  with wds.ShardWriter(pattern, maxcount=10, verbose=0) as writer:
    for i, image in enumerate(images):
      key = f'n{i % 3:08d}/n{i % 3:08d}_{i}'
      about = {'filename': f'{key}.JPEG', 'label': i % 3}
      writer.write({'__key__': key, 'jpg': image, 'cls': i % 3, 'json': about})
  spec = f'wds:{tmp_path}/imagenet-train-{{000000..000002}}.tar'
  source = open_source.open_source(spec)
  assert source.class_names == ('0', '1', '2') and not source.captions
  examples = read(source)
  assert [example['image'] for example in examples] == images
  assert [example['label'] for example in examples] == [
    i % 3 for i in range(25)
  ]
  assert examples[10]['name'] == (
    'imagenet-train-000001.tar/n00000001/n00000001_10'
  )
  # The reader of the format gives the same.
  shards = sorted(map(str, tmp_path.glob('*.tar')))
  public = wds.WebDataset(shards, shardshuffle=False)
  for example, sample in zip(examples, public):
    assert example['image'] == sample['jpg']
    assert example['label'] == int(sample['cls'])


def test_img2datasets_form(read, pixels, golden_picture):
  # It writes a table of what it downloaded next to each tar.
  source = open_source.open_source(f'{FILES}/img2dataset')
  assert isinstance(source, webdataset.WebDatasetSource)
  examples = read(source)
  assert len(examples) == 3 and not source.class_names
  for i, example in enumerate(examples):
    np.testing.assert_array_equal(pixels(example), golden_picture(i))
    assert [c.text for c in example['captions']] == [f'picture {i}']
    assert example['name'] == f'00000.tar/{i:09d}'


def test_a_wids_index(tmp_path, encode, read):
  shards = []
  for k in range(2):
    members = [
      (f'{i}.{field}', data)
      for i in range(k + 2)
      for field, data in (('jpg', encode(10 * k + i)), ('txt', f'{k} {i}'))
    ]
    path = write(tmp_path / 'data' / f'{k}.tar', members)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    about = {'url': f'{k}.tar', 'nsamples': k + 2, 'md5sum': md5}
    shards.append(about | {'filesize': path.stat().st_size})
  index = tmp_path / 'data' / 'index.json'
  about = {'__kind__': 'wids-shard-index-v1', 'wids_version': 1}

  def save(**changes):
    index.write_text(json.dumps(about | {'shardlist': shards} | changes))

  save()
  for spec in (f'wds:{index}', f'{tmp_path}/data'):
    source = open_source.open_source(spec)
    assert [e['captions'][0].text for e in read(source)] == [
      *('0 0', '0 1', '1 0', '1 1', '1 2'),
    ]
    source.check(resolution=8, checksums=True)
  wids = pytest.importorskip('wids')
  public = wids.ShardListDataset(
    str(index), transformations=[], cache_dir=str(tmp_path / 'w')
  )
  for i, sample in enumerate(public):
    assert sample['.jpg'].read() == source[i]['image']
    assert sample['.txt'].read().decode() == source[i]['captions'][0].text
  shards[1]['md5sum'] = '0' * 32
  save()
  with pytest.raises(UserError, match='its MD5 is not that of'):
    open_source.open_source(f'wds:{index}').check(checksums=True)
  shards[1]['filesize'] += 1
  save()
  with pytest.raises(FileNotFoundError, match='copy is incomplete'):
    open_source.open_source(f'wds:{index}')
  del shards[1]['filesize']
  shards[1]['url'] = 'https://example.org/1.tar'
  save()
  with pytest.raises(UserError, match='is not on this machine'):
    open_source.open_source(f'wds:{index}')
  save(wids_version=2)
  with pytest.raises(UserError, match='wids_version 1, got .* and 2'):
    open_source.open_source(f'wds:{index}')
  save(shardlist=[])
  with pytest.raises(UserError, match='lists no shard'):
    open_source.open_source(f'wds:{index}')


def test_a_wids_index_of_other_counts_is_refused(tmp_path, encode):
  write(tmp_path / 'a.tar', [('0.jpg', encode(0))])
  about = {'__kind__': 'wids-shard-index-v1', 'wids_version': 1}
  about['shardlist'] = [{'url': 'a.tar', 'nsamples': 2}]
  (tmp_path / 'i.json').write_text(json.dumps(about))
  with pytest.raises(UserError, match='has 1 samples, not 2'):
    webdataset.WebDatasetSource(f'{tmp_path}/i.json')


def test_captions_and_labels_of_samples(tmp_path, encode):
  about = {'caption': 'from json', 'long': ['one', 'two'], 'class': 'x'}
  members = [
    ('a.jpg', encode(0)), ('a.cls', 'dog'), ('a.txt', 'beside'),
    ('b.png', encode(1)), ('b.cls', 'cat\n'), ('b.json', json.dumps(about)),
    ('c.JPG', encode(2)), ('c.cls', 'dog'),
    ('d.webp', encode(3)), ('d.cls', 'dog'), ('d.json', '{"capti'),
    ('__meta__/x.jpg', b''), ('.hidden.jpg', b''), ('README', b''),
    ('e.txt', 'no picture'),
  ]  # fmt: skip
  write(tmp_path / 'a.tar', members)
  source = webdataset.WebDatasetSource(f'{tmp_path}/a.tar')
  assert source.class_names == ('cat', 'dog') and len(source) == 4
  assert [source[i]['label'] for i in range(3)] == [1, 0, 1]
  given = [[c.text for c in source[i]['captions']] for i in range(3)]
  assert given == [['beside'], ['from json'], []]
  with pytest.raises(BadExample, match='a.tar/d has damaged captions'):
    source[3]
  spec = f'{tmp_path}/a.tar?label=json.class&caption=txt,json.long'
  source = webdataset.WebDatasetSource(spec)
  assert source.class_names == ('x',) and source[1]['label'] == 0
  given = [(c.kind, c.text) for c in source[1]['captions']]
  assert given == [('json.long', 'one'), ('json.long', 'two')]
  assert [c.text for c in source[0]['captions']] == ['beside']


def test_keys_apart_and_keys_cut_at_a_dot_are_said(tmp_path, encode, caplog):
  members = [
    ('x.jpg', encode(0)), ('y.jpg', encode(1)), ('x.txt', 'of x'),
    ('1.5_a.jpg', encode(2)), ('1.6_a.jpg', encode(3)),
    ('2.5.png', encode(4)), ('2.5.txt', 'of 2'),
    ('./z/q.r/w.jpg', encode(5)), ('z/q.r/w.txt', 'of w'),
  ]  # fmt: skip
  write(tmp_path / 'a.tar', members)
  source = webdataset.WebDatasetSource(f'{tmp_path}/a.tar')
  names = [source[i]['name'] for i in range(len(source))]
  assert names == ['a.tar/x', 'a.tar/y', 'a.tar/2', 'a.tar/z/q.r/w']
  given = [[c.text for c in source[i]['captions']] for i in range(4)]
  assert given == [['of x'], [], [], ['of w']]
  assert '1 keys have members that do not follow each other' in caplog.text
  assert '1 keys have several pictures and are left out' in caplog.text
  assert 'a.tar/1 (5_a.jpg, 6_a.jpg)' in caplog.text
  source = webdataset.WebDatasetSource(f'{tmp_path}/a.tar?image=6_a.jpg')
  assert len(source) == 1 and source[0]['image'] == encode(3)


def test_tars_that_cannot_serve_are_refused(tmp_path, encode):
  twice = write(tmp_path / 'a.tar', [('x.jpg', b'1'), ('x.jpg', b'2')])
  with pytest.raises(UserError, match='has x.jpg twice'):
    webdataset.WebDatasetSource(str(twice))
  none = write(tmp_path / 'b.tar', [('x.txt', b'1')])
  with pytest.raises(
    UserError, match='no sample has a picture.*1 samples have'
  ):
    webdataset.WebDatasetSource(str(none))
  cut = write(tmp_path / 'c.tar', [('x.jpg', encode(0)), ('y.jpg', encode(1))])
  cut.write_bytes(cut.read_bytes()[:1300])
  with pytest.raises(UserError, match='c.tar is cut short'):
    webdataset.WebDatasetSource(str(cut))
  mixed = tmp_path / 'mixed'
  write(mixed / 'a.tar', [('x.jpg', b'1'), ('x.cls', '3')])
  write(mixed / 'b.tar', [('y.jpg', b'1'), ('y.cls', 'dog')])
  with pytest.raises(UserError, match='labels are numbers, those of other'):
    webdataset.WebDatasetSource(str(mixed))
  with pytest.raises(FileNotFoundError, match='shard-3.tar'):
    webdataset.WebDatasetSource(f'{tmp_path}/shard-{{3..4}}.tar')


def test_a_tar_that_shrinks_while_it_is_read(tmp_path, encode):
  path = write(tmp_path / 'a.tar', [(f'{i}.jpg', encode(i)) for i in range(9)])
  source = webdataset.WebDatasetSource(str(path))
  path.write_bytes(path.read_bytes()[:2000])
  assert source[0]['image'] == encode(0)
  with pytest.raises(BadExample, match='a.tar/8: .*cut short: it ends at'):
    source[8]
