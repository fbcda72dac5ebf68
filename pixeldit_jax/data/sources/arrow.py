"""Folders that `datasets.save_to_disk` wrote: Arrow streams of encoded images.

The buffers of a stream are its file as it is, so that each picture is a range
of the file; an index keeps where it is.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pixeldit_jax import files as whole_files
from pixeldit_jax.data.sources import arrow_tables, columns, data_files, indexed
from pixeldit_jax.data.sources.byte_index import MISSING, PLAIN, Part
from pixeldit_jax.data.sources.columns import Columns
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.errors import MissingFileError, UserError, one_line

SUFFIXES = ('.arrow',)
STATE, SPLITS = 'state.json', 'dataset_dict.json'
_END = b'\xff\xff\xff\xff\x00\x00\x00\x00'  # the last message of a stream


class ArrowSource(indexed.IndexedSource):
  """The rows of a folder of `datasets.save_to_disk`, in its order.

  Args:
    spec: the folder (of a data set, or of several splits), or `.arrow` files;
      and perhaps ?split=validation&image=img&label=y&caption=text.

  Raises:
    UserError: if a file cannot be read, has no images or only their paths.
  """

  def __init__(self, spec: str):
    path, options = data_files.parse(spec, ('split', *columns.OPTIONS))
    paths = find_files(path, options.get('split'))
    _, schema, _ = _open(paths[0])
    chosen = columns.choose(
      arrow_tables.kinds_of(schema, paths[0]), options, paths[0]
    )
    index = open_index(
      'arrow',
      paths,
      functools.partial(scan, chosen=chosen),
      dataclasses.asdict(chosen),
    )
    super().__init__(index, f'arrow:{spec}')


def find_files(path: str, split: str | None) -> list[str]:
  """Returns the files of a folder, in the order that it says itself."""
  splits = os.path.join(path, SPLITS)
  if os.path.exists(splits):
    names = list(map(str, whole_files.read_json(splits).get('splits', [])))
    chosen = (
      [split] if split in names else (data_files.take_split(names, '', split))
    )
    if len(chosen) != 1:
      raise UserError(
        f'data source: {path!r} has the splits {", ".join(names)}: choose one '
        'by ?split=...'
      )
    path = os.path.join(path, chosen[0])
  state = os.path.join(path, STATE)
  if not os.path.exists(state):
    return data_files.find(path, SUFFIXES, split)
  form = {'_data_files': [{'filename': str}]}
  listed = whole_files.read_json(state, form=form)['_data_files']
  names = [entry['filename'] for entry in listed]
  whole_files.check_inside(names, state)
  paths = [os.path.join(path, name) for name in names]
  if not paths:
    raise UserError(f'{state} names no files: _data_files is empty.')
  missing = [name for name in paths if not os.path.exists(name)]
  if missing:
    raise MissingFileError(
      f'{path}: {len(missing)} files of {STATE} are not there, the copy is '
      f'incomplete: {", ".join(missing[:5])}'
    )
  return [os.path.abspath(name) for name in paths]


def _open(
  path: str,
) -> tuple[pa.Buffer, pa.Schema, Iterator[pa.RecordBatch]]:
  """Maps a file; returns its bytes, and the batches that point into them."""
  try:
    mapped = pa.memory_map(path).read_buffer()
    if mapped[:6].to_pybytes() == b'ARROW1':
      file = pa.ipc.open_file(mapped)
      numbers = range(file.num_record_batches)
      return mapped, file.schema, map(file.get_batch, numbers)
    stream = pa.ipc.open_stream(mapped)
  except (pa.ArrowException, OSError, ValueError) as error:
    raise UserError(
      f'{path} is no Arrow stream, or is cut short: {one_line(error)}'
    ) from error
  if mapped[-len(_END) :].to_pybytes() != _END:
    raise UserError(f'{path} is cut short: the end of the stream is missing')
  return mapped, stream.schema, iter(stream)


def scan(path: str, chosen: Columns) -> Part:
  """Returns the part of a file: where its pictures are, labels, captions."""
  mapped, schema, batches = _open(path)
  reader = arrow_tables.TableReader(schema, chosen, path)
  found = [np.zeros((0, 3), np.int64)]
  given = None
  try:
    for batch in batches:
      column = batch.column(chosen.image)
      found.append(_locate(column, mapped, path))
      reader.take(batch)
      first = column[0].as_py() if len(column) else None
      if isinstance(first, dict):
        given = given or first.get('path')
  except UserError:
    raise
  except (pa.ArrowException, OSError, ValueError) as error:
    raise UserError(
      f'{path} is cut short or damaged: {one_line(error)}'
    ) from error
  storage, offset, size = np.concatenate(found).T
  if given and not storage.any():
    raise UserError(arrow_tables.only_paths(path, given))
  part = Part(rows={'storage': storage, 'offset': offset, 'size': size})
  names = [
    f'{os.path.basename(path)}/{row:08d}'
    for row in np.flatnonzero(storage == MISSING)
  ]
  part.note('rows have no picture', names)
  reader.finish(part)
  return part


def _locate(column: pa.Array, mapped: pa.Buffer, path: str) -> np.ndarray:
  """Returns storage, offset and size of the pictures of a batch, [n, 3]."""
  there = np.asarray(column.is_valid())
  if pa.types.is_struct(column.type):
    column = column.field('bytes')
    there &= np.asarray(column.is_valid())
  values = np.zeros((len(column), 3), np.int64)
  values[:, 0] = np.where(there, PLAIN, MISSING)
  if not there.any():
    return values
  wide = pa.types.is_large_binary(column.type)
  _, bounds, data = column.buffers()
  bounds = np.frombuffer(bounds, np.int64 if wide else np.int32)
  bounds = bounds[column.offset : column.offset + len(column) + 1].astype(
    np.int64
  )
  start = data.address - mapped.address
  if not 0 <= start <= mapped.size - data.size:
    raise UserError(
      f'{path} has compressed buffers: write it again without compression, as '
      'datasets.save_to_disk does'
    )
  values[:, 1], values[:, 2] = start + bounds[:-1], np.diff(bounds)
  return values
