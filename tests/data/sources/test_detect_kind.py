"""A bare path stands for its kind of data, or for an error that helps."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.data.sources import detect_kind, open_source
from pixeldit_jax.errors import UserError


@pytest.fixture
def tree(tmp_path):
  """f(names) -> a folder with these files."""

  def make(*names, **texts):
    root = tmp_path / 'data'
    for name in names:
      path = root / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(texts.get(path.stem, '{}'))
    return str(root)

  return make


SHARDS = json.dumps({'format': 'pixeldit_jax shards 1'})
WIDS = json.dumps({'__kind__': 'wids-shard-index-v1'})


@pytest.mark.parametrize(
  'names, want',
  [
    (['data/train-00000-of-00001.parquet', 'README.md'], 'parquet:{}'),
    (['0/0.parquet', '0/1.parquet'], 'parquet:{}'),
    (['state.json', 'data-00000-of-00001.arrow'], 'arrow:{}'),
    (['dataset_dict.json', 'train/state.json'], 'arrow:{}'),
    (['a-000.tar', 'a-001.tar'], 'wds:{}'),
    (['00000.tar', '00000.parquet', '00000_stats.json'], 'wds:{}'),
    (['ILSVRC2012_img_train.tar'], 'imagenet_tar:{}'),
    (['annotations/captions_train2017.json', 'train2017/0.jpg'], 'coco:{}'),
    (['dataset.json', '00000/a.png'], 'edm2:{}'),
    (['images.h5'], 'edm2:{}'),
    (['cat/a.jpg', 'dog/b.jpg'], 'folder:{}'),
    (['train/cat/a.jpg', 'val/cat/b.jpg'], 'folder:{}/train'),
    (['a.jpg', 'a.txt', 'b.jpg'], 'images:{}'),
    (['train/0.mds', 'train/index.json'], 'mds:{}'),
  ],
)
def test_layouts(tree, names, want):
  root = tree(*names)
  assert detect_kind.detect(root) == want.format(root)
  assert detect_kind.detect(f'{root}?x=1') == want.format(root) + '?x=1'


@pytest.mark.parametrize(
  'name, text, want',
  [
    ('manifest.json', SHARDS, 'shards:{}'),
    ('index.json', '{"version": 2, "shards": []}', 'mds:{}'),
    ('index.json', WIDS, 'wds:{}/index.json'),
  ],
)
def test_indexes_are_opened(tree, name, text, want):
  root = tree(name, manifest=text, index=text)
  assert detect_kind.detect(root) == want.format(root)


@pytest.mark.parametrize(
  'name, want',
  [('a.parquet', 'parquet:{}'), ('a.tar', 'wds:{}'), ('a.arrow', 'arrow:{}')],
)
def test_single_files(tree, name, want):
  path = f'{tree(name)}/{name}'
  assert detect_kind.detect(path) == want.format(path)


def test_a_version_of_tfds(tree):
  root = tree(
    *('mnist/3.0.1/dataset_info.json', 'mnist/3.0.1/features.json'),
    'mnist/3.0.1/mnist-train.array_record-00000-of-00001',
  )
  want = f'tfds:mnist:3.0.1:train?{root}'
  assert detect_kind.detect(f'{root}/mnist/3.0.1') == want


@pytest.mark.parametrize(
  'names, match',
  [
    (['a.parquet', 'b.tar'], 'may be parquet:.* or wds:.*: give one'),
    (['cat/a.jpg', 'cat/a.txt'], 'may be folder:.* or images:'),
    (['cat/a.jpg', 'b.jpg'], 'may be folder:.* or images:'),
    (
      ['x.tfrecord-00000-of-00001'],
      'tfds convert_format --dataset_version_dir',
    ),
    (['data.mdb', 'lock.mdb'], 'LMDB.*webdataset.*then wds:OUT'),
    (['a.npz'], 'arrays of pixels.*then images:OUT'),
    (['a.zip'], 'unzip -q .*/a.zip -d OUT'),
    (['a.beton'], 'FFCV'),
    (['a.docx', 'b'], r'no kind of data.*no suffix \(1\), \.docx \(1\)'),
  ],
)
def test_what_is_not_read_or_not_clear(tree, names, match):
  with pytest.raises(UserError, match=match) as caught:
    open_source.open_source(tree(*names))
  assert '\n' not in str(caught.value)


def command_of(root):
  """The command in the error message, for its output folder OUT."""
  with pytest.raises(UserError) as caught:
    open_source.open_source(root)
  command = str(caught.value)
  command = command[command.index('python -c "') :].rpartition(', then')[0]
  code = command.removeprefix('python -c "').removesuffix('"')
  return [sys.executable, '-c', code]


def test_the_command_for_arrays_works(tree, tmp_path):
  root = tree('a.npz')
  images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
  np.savez(f'{root}/a.npz', images)
  (tmp_path / 'OUT').mkdir()
  subprocess.run(command_of(root), cwd=tmp_path, check=True)
  source = open_source.open_source(f'images:{tmp_path}/OUT')
  assert len(source) == 3 and source[2]['name'] == '00000002.png'


def test_the_command_for_lmdb_works(tree, tmp_path, encode):
  lmdb = pytest.importorskip('lmdb')
  pytest.importorskip('webdataset')
  root = tree('readme')
  with lmdb.open(root) as environment, environment.begin(write=True) as t:
    for i in range(3):
      t.put(f'k.{i}'.encode(), encode(i))
  (tmp_path / 'data' / 'readme').unlink()
  (tmp_path / 'OUT').mkdir()
  subprocess.run(command_of(root), cwd=tmp_path, check=True)
  source = open_source.open_source(f'wds:{tmp_path}/OUT')
  assert [source[i]['image'] for i in range(3)] == [encode(i) for i in range(3)]
