"""What holds for all kinds: exact resume on other hosts, files that go."""

import functools
import io
import json
import pathlib
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.sources.open_source import open_source

FILES = pathlib.Path(__file__).parent / 'files'
IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def table(part, encode):
  rows = [{'bytes': encode(20 * part + i), 'path': None} for i in range(20)]
  label = [i % 3 for i in range(20)]
  return pa.table({'image': pa.array(rows, IMAGE), 'label': label})


def parquet(root, encode):
  for k in range(3):
    pq.write_table(table(k, encode), root / f'{k}.parquet')


def arrow(root, encode):
  for k in range(3):
    made = table(k, encode)
    with pa.ipc.new_stream(root / f'{k}.arrow', made.schema) as writer:
      writer.write_table(made, max_chunksize=7)


def wds(root, encode):
  for k in range(3):
    with tarfile.open(root / f'{k}.tar', 'w') as file:
      for i in range(20):
        for name, data in (
          ('png', encode(20 * k + i)),
          ('cls', b'%d' % (i % 3)),
        ):
          member = tarfile.TarInfo(f'{i:04d}.{name}')
          member.size = len(data)
          file.addfile(member, io.BytesIO(data))


def mds(root, encode):
  del encode  # mosaicml-streaming wrote these: six pictures, three shards
  shutil.copytree(FILES / 'mds' / 'ndarray', root, dirs_exist_ok=True)


def coco(root, encode):
  (root / 'train2017').mkdir()
  (root / 'annotations').mkdir()
  names = [f'{i:012d}.jpg' for i in range(60)]
  for i, name in enumerate(names):
    (root / 'train2017' / name).write_bytes(encode(i))
  about = {
    'images': [{'id': i, 'file_name': name} for i, name in enumerate(names)],
    'annotations': [{'image_id': i, 'caption': f'{i}'} for i in range(60)],
  }
  path = root / 'annotations' / 'captions_train2017.json'
  path.write_text(json.dumps(about))


# Who writes the files, and those that go in the middle of an epoch.
KINDS = {
  'parquet': (parquet, '1.parquet'),
  'arrow': (arrow, None),  # mapped memory outlives its file
  'wds': (wds, '1.tar'),
  'mds': (mds, 'shard.00001.mds'),
  'coco': (coco, 'train2017/00000000003?.jpg'),
}


@pytest.fixture(params=KINDS)
def data(request, tmp_path, encode):
  """A specification, its folder, and the file that goes."""
  write, gone = KINDS[request.param]
  root = tmp_path / 'data'
  root.mkdir()
  write(root, encode)
  return f'{request.param}:{root}', root, gone


def start(spec, host=0, hosts=1, batch_size=4):
  options = LoaderOptions(
    resolution=8,
    batch_size=batch_size,
    seed=3,
    num_threads=1,
    prefetch=1,
  )
  share = batch_size // hosts
  rows = range(host * share, (host + 1) * share)
  return make_batches(open_source(spec), options, rows=rows)


def test_a_resume_with_other_hosts_gives_the_same_order(data, check_resume):
  check_resume(functools.partial(start, data[0]), 4)


def test_a_file_that_goes_in_mid_epoch_costs_its_pictures(data):
  spec, root, gone = data
  batches = start(spec, batch_size=2)
  next(batches)
  if gone:
    for path in root.glob(gone):
      path.unlink()
  ids = np.concatenate([next(batches)['id'] for _ in range(33)])
  assert len(ids) == 66
  if gone:
    assert any('No such file' in name for name in batches.skipped)
  else:
    assert not batches.skipped
  batches.close()
