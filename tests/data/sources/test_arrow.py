"""Folders of `datasets.save_to_disk`, and other Arrow files."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pixeldit_jax.data.sources import arrow, open_source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

CLASSES = ['cat', 'dog', 'owl']


def make(images, paths=None):
  """A data set as `datasets` makes it."""
  datasets = pytest.importorskip('datasets')
  paths = paths or [None] * len(images)
  return datasets.Dataset.from_dict(
    {
      'picture': [
        {'bytes': data, 'path': path} if data or path else None
        for data, path in zip(images, paths)
      ],
      'label': [i % 3 for i in range(len(images))],
      'text': [f'text {i}' for i in range(len(images))],
    },
    features=datasets.Features(
      {
        'picture': datasets.Image(),
        'label': datasets.ClassLabel(names=CLASSES),
        'text': datasets.Value('string'),
      }
    ),
  )


def test_save_to_disk(tmp_path, encode, read):
  images = [encode(i, 20 + i) for i in range(250)]  # three batches
  images[4] = None
  made = make(images)
  made.save_to_disk(tmp_path / 'data', num_shards=2)
  source = open_source.open_source(f'{tmp_path}/data')
  assert isinstance(source, arrow.ArrowSource) and len(source) == 250
  assert source.class_names == tuple(CLASSES)
  for i in range(250):
    if i == 4:
      with pytest.raises(BadExample, match='arrow/00000004 has no picture'):
        source[4]
      continue
    example = source[i]
    assert example['image'] == images[i]
    assert example['label'] == made['label'][i]
    assert [c.text for c in example['captions']] == [f'text {i}']


def test_save_to_disk_embeds_files(tmp_path, encode, read):
  (tmp_path / 'a.png').write_bytes(encode(1))
  made = make([None], [str(tmp_path / 'a.png')])
  made.save_to_disk(tmp_path / 'data')
  (example,) = read(arrow.ArrowSource(f'{tmp_path}/data'))
  assert example['image'] == encode(1)


def test_splits_of_a_dict(tmp_path, encode):
  datasets = pytest.importorskip('datasets')
  datasets.DatasetDict(
    {'train': make([encode(0)]), 'odd': make([encode(1)] * 2)}
  ).save_to_disk(tmp_path / 'data')
  source = open_source.open_source(f'{tmp_path}/data')
  assert source[0]['image'] == encode(0)
  source = open_source.open_source(f'{tmp_path}/data?split=odd')
  assert len(source) == 2 and source[0]['image'] == encode(1)
  with pytest.raises(UserError, match="no split 'test'"):
    arrow.ArrowSource(f'{tmp_path}/data?split=test')


@pytest.mark.parametrize('form', ['stream', 'file'])
@pytest.mark.parametrize('large', [False, True])
def test_arrow_files_of_other_writers(tmp_path, encode, read, form, large):
  kind = pa.large_binary() if large else pa.binary()
  images = [encode(i) for i in range(30)]
  table = pa.table({'image': pa.array(images, kind), 'label': range(30)})
  path = tmp_path / 'a.arrow'
  new = pa.ipc.new_stream if form == 'stream' else pa.ipc.new_file
  with new(path, table.schema) as writer:
    writer.write_table(table.slice(3, 20), max_chunksize=7)
  examples = read(arrow.ArrowSource(str(path)))
  assert [example['image'] for example in examples] == images[3:23]
  assert [example['label'] for example in examples] == list(range(3, 23))


def test_files_that_cannot_serve_are_refused(tmp_path, encode):
  folder = tmp_path / 'data'
  made = make([encode(i) for i in range(9)])
  made.save_to_disk(folder)
  (path,) = folder.glob('*.arrow')
  whole = path.read_bytes()
  for cut in (5, 300, -5, -2000):
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match='cut short'):
      arrow.ArrowSource(str(folder))
  path.unlink()
  with pytest.raises(FileNotFoundError, match='1 files of state.json are not'):
    arrow.ArrowSource(str(folder))
  (folder / 'state.json').write_text(json.dumps({'_data_files': [{}]}))
  with pytest.raises(
    UserError, match="damaged: '_data_files' lacks 'filename'"
  ):
    arrow.ArrowSource(str(folder))
  table = pa.table({'image': [b'x' * 1000] * 9})
  options = pa.ipc.IpcWriteOptions(compression='zstd')
  with pa.ipc.new_stream(
    tmp_path / 'z.arrow', table.schema, options=options
  ) as w:
    w.write_table(table)
  with pytest.raises(UserError, match='has compressed buffers'):
    arrow.ArrowSource(str(tmp_path / 'z.arrow'))


def test_paths_without_pictures_are_refused(tmp_path):
  kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
  rows = [{'bytes': None, 'path': '/x/a.png'}]
  table = pa.table({'image': pa.array(rows, kind)})
  with pa.ipc.new_stream(tmp_path / 'a.arrow', table.schema) as writer:
    writer.write_table(table)
  with pytest.raises(UserError, match="only their paths .*'/x/a.png'"):
    arrow.ArrowSource(str(tmp_path / 'a.arrow'))


def test_memory_is_mapped_not_read(tmp_path, encode):
  made = make([encode(i) for i in range(20)])
  made.save_to_disk(tmp_path / 'data')
  source = arrow.ArrowSource(f'{tmp_path}/data')
  rows = source._index.rows
  assert all(isinstance(array.base, np.memmap) for array in rows.values())
