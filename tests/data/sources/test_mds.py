"""MDS shards that mosaicml-streaming wrote (see files/make_files.py)."""

import json
import pathlib
import shutil
import struct

import numpy as np
import pytest

from pixeldit_jax.data.sources import mds, open_source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

FILES = pathlib.Path(__file__).parent / 'files' / 'mds'
FORMS = ('png', 'pil', 'ndarray', 'ndarray_uint8', 'bytes')


@pytest.fixture
def copy(tmp_path):
  """f(form) -> a copy of its folder."""
  return lambda form: shutil.copytree(FILES / form, tmp_path / form)


@pytest.mark.parametrize('form', FORMS)
def test_every_encoding(copy, read, pixels, golden_picture, form):
  folder = copy(form)
  source = open_source.open_source(str(folder))
  assert isinstance(source, mds.MdsSource)
  assert source.class_names == ('0', '1', '2')
  examples = read(source)
  assert len(examples) == 6
  for i, example in enumerate(examples):
    np.testing.assert_array_equal(pixels(example), golden_picture(i))
    assert example['label'] == i % 3
    texts = [caption.text for caption in example['captions']]
    assert texts[0] == f'picture {i}'
    assert texts[1:] == ([f'again {i}'] if form == 'bytes' else [])
  source.check(resolution=8, checksums=True)


def test_compressed_shards_are_kept_decompressed(copy, cache):
  folder = copy('bytes')
  assert len(list(folder.glob('*.zstd'))) == 2
  mds.MdsSource(str(folder))
  kept = list((cache.parent / 'mds').iterdir())
  assert len(kept) == 2
  times = [path.stat().st_mtime_ns for path in kept]
  mds.MdsSource(str(folder))
  assert [path.stat().st_mtime_ns for path in kept] == times
  data = bytearray((folder / 'shard.00000.mds.zstd').read_bytes())
  data[len(data) // 2] ^= 8
  (folder / 'shard.00000.mds.zstd').write_bytes(data)
  with pytest.raises(UserError, match='00000.mds.zstd is damaged'):
    mds.MdsSource(str(folder))
  assert len(list((cache.parent / 'mds').iterdir())) == 2


def test_a_damaged_shard_is_found_by_its_checksum(copy, tmp_path):
  folder = copy('pil')
  source = mds.MdsSource(str(folder))
  path = folder / 'shard.00001.mds'
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match='shard.00001.mds is damaged: its sha1'):
    source.check(resolution=8, checksums=True)
  source.check(resolution=8, checksums=True, process_index=0, process_count=3)


def edit(folder, change):
  path = folder / 'index.json'
  about = json.loads(path.read_text())
  change(about)
  path.write_text(json.dumps(about))


def test_an_index_of_another_kind_is_refused(copy, tmp_path):
  folder = copy('png')

  def refused(match, **changes):
    edit(folder, lambda about: about['shards'][0].update(changes))
    with pytest.raises(UserError, match=match) as caught:
      mds.MdsSource(str(folder))
    assert '\n' not in str(caught.value)

  refused('shards of format .mds., version 3; expected', version=3)
  refused("format 'json', version 2; expected", version=2, format='json')
  refused('00000.mds has .* bytes, not 7: .* incomplete', format='mds',
          raw_data={'basename': 'shard.00000.mds', 'bytes': 7})  # fmt: skip
  refused("a shard lacks 'basename'", raw_data={})
  edit(folder, lambda about: about.update(version=1))
  with pytest.raises(UserError, match='is of version 1; expected .* version 2'):
    mds.MdsSource(str(folder))
  (folder / 'index.json').write_text('{')
  with pytest.raises(UserError, match='index.json is damaged'):
    mds.MdsSource(str(folder))
  with pytest.raises(FileNotFoundError, match='no index.json'):
    mds.MdsSource(str(FILES / '..' / 'datasets2'))


def test_columns_without_an_image_are_named(copy):
  folder = copy('png')

  def rename(about):
    for shard in about['shards']:
      shard['column_encodings'] = ['str', 'pkl', 'int']

  edit(folder, rename)
  with pytest.raises(
    UserError, match='no column of images .*caption .text., image .other.'
  ):
    mds.MdsSource(str(folder))
  with pytest.raises(UserError, match="'image', pkl, is no image"):
    mds.MdsSource(f'{folder}?image=image')


@pytest.mark.parametrize(
  'position, value, match',
  [
    (0, 9, 'it says 9 samples'),
    (8, 5000, 'the columns of sample 0'),
    (16, 10**6, 'samples up to byte 1000000'),
    (-1, 10**6, 'columns of sample'),
  ],
)
def test_a_sample_that_says_another_size_is_refused(
  copy, position, value, match
):
  folder = copy('pil')
  path = folder / 'shard.00000.mds'
  data = bytearray(path.read_bytes())
  if position < 0:  # the size of the first sample's first column
    (position,) = struct.unpack_from('<I', data, 4)
  count = struct.unpack_from('<I', data)[0]
  if position == 16:
    position = 4 * (count + 1)  # the end of the last sample
  struct.pack_into('<I', data, position, value)
  path.write_bytes(data)
  with pytest.raises(UserError, match=match):
    mds.MdsSource(str(folder))


def test_a_damaged_picture_is_a_bad_example(copy):
  folder = copy('pil')
  source = mds.MdsSource(str(folder))
  offset = int(source._index.rows['offset'][0])
  path = folder / 'shard.00000.mds'
  data = bytearray(path.read_bytes())
  struct.pack_into('<I', data, offset, 99)  # its width
  path.write_bytes(data)
  with pytest.raises(BadExample, match='shard.00000.mds/00000000: damaged pil'):
    source[0]
  (folder / 'shard.00001.mds').unlink()
  with pytest.raises(OSError, match='No such file'):
    source[len(source) // 2]


def test_splits(copy, tmp_path, read):
  copy('png').rename(tmp_path / 'val')
  copy('pil').rename(tmp_path / 'train')
  assert mds.MdsSource(str(tmp_path)).files[0].endswith('train/shard.00000.mds')
  source = open_source.open_source(f'mds:{tmp_path}?split=val')
  assert source.files[0].endswith('val/shard.00000.mds')
