"""Parquet files of encoded images, as the Hugging Face hub holds them.

A picture is read by one `pread` at the position that an index keeps (see
`parquet_pages`). What cannot be read so, as pages in zstd, is read with its
complete row group: the order stays the same, and the log says what it costs.
"""

import dataclasses
import functools
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pixeldit_jax import files
from pixeldit_jax.data.sources import (
  arrow_tables,
  byte_index,
  columns,
  data_files,
  indexed,
  parquet_pages,
  snappy,
)
from pixeldit_jax.data.sources.byte_index import (
  BLOCK,
  GROUP,
  MISSING,
  SNAPPY,
  Part,
)
from pixeldit_jax.data.sources.columns import Columns
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError, one_line

SUFFIXES = ('.parquet',)
_GROUP_BITS = 32  # a row in a group, in the offsets of pictures in groups
# What pyarrow raises for damaged files.
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
_GROUPS_KEPT = 4  # row groups that a process keeps decoded


class ParquetSource(indexed.IndexedSource):
  """The rows of Parquet files, in the order of the names of the files.

  Args:
    spec: a file, folder, glob or hf://datasets/owner/name, and perhaps options:
      ?split=validation&image=img&label=y&caption=text (see `columns`).

  Raises:
    UserError: if a file cannot be read, has no images or only their paths.
  """

  def __init__(self, spec: str):
    path, options = data_files.parse(spec, ('split', *columns.OPTIONS))
    paths = data_files.find(path, SUFFIXES, options.get('split'))
    with _open(paths[0]) as file:
      kinds = arrow_tables.kinds_of(file.schema_arrow, paths[0])
    chosen = columns.choose(kinds, options, paths[0])
    index = open_index(
      'parquet',
      paths,
      functools.partial(scan, chosen=chosen),
      dataclasses.asdict(chosen),
    )
    super().__init__(index, f'parquet:{spec}')

  def _compare_checksums(self, path: str) -> None:
    """Compares those of the pages."""
    with _open(path, page_checksum_verification=True) as file:
      try:
        for group in range(file.num_row_groups):
          file.read_row_group(group, columns=[self.settings['image']])
      except _DAMAGE as error:
        raise UserError(f'{path} is damaged: {one_line(error)}') from error

  def _image(self, index: int, path: str) -> bytes:
    rows, blobs = self._index.rows, self._index.blobs
    storage, offset = int(rows['storage'][index]), int(rows['offset'][index])
    size = int(rows['size'][index])
    if storage == GROUP:
      group, row = offset >> _GROUP_BITS, offset & (2**_GROUP_BITS - 1)
      return _read_from_group(path, self.settings['image'], group, row)
    if storage != SNAPPY or not size:
      return indexed.read_range(path, offset, size)
    first, last = offset // BLOCK, (offset + size - 1) // BLOCK + 1
    start, end = int(blobs['blocks'][first]), int(blobs['blocks'][last])
    length = int(blobs['block_sizes'][first:last].sum())
    page = snappy.decompress_blocks(
      indexed.read_range(path, start, end - start), length
    )
    return page[offset % BLOCK : offset % BLOCK + size]


def _open(path: str, **options) -> pq.ParquetFile:
  """Opens a file; without reading ahead, which fetches complete groups."""
  try:
    return pq.ParquetFile(path, pre_buffer=False, **options)
  except (FileNotFoundError, PermissionError):
    raise
  except _DAMAGE as error:
    raise UserError(
      f'{path} is no Parquet file, or is cut short: {one_line(error)}'
    ) from error


@functools.lru_cache(_GROUPS_KEPT)
def _read_group(path: str, column: str, group: int) -> pa.ChunkedArray:
  with _open(path) as file:
    return file.read_row_group(group, columns=[column]).column(0)


def _read_from_group(path: str, column: str, group: int, row: int) -> bytes:
  try:
    value = _read_group(path, column, group)[row].as_py()
  except (FileNotFoundError, PermissionError):
    raise
  except (UserError, *_DAMAGE) as error:
    raise BadExample(f'damaged row group {group}: {one_line(error)}') from error
  image = value['bytes'] if isinstance(value, dict) else value
  if image is None:
    raise BadExample('has no picture')
  return image


def scan(path: str, chosen: Columns) -> Part:
  """Returns the part of a file: where its pictures are, labels, captions."""
  with _open(path) as file:
    reader = arrow_tables.TableReader(file.schema_arrow, chosen, path)
    leaf = _find_leaf(file, chosen.image, path)
    found, blocks = [], 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
      for group in range(file.num_row_groups):
        located, codec = _locate(file, path, descriptor, group, leaf, blocks)
        found.append((located, codec))
        blocks += len(located.blocks)
        if reader.columns:
          reader.take(file.read_row_group(group, columns=reader.columns))
      part = _join(found)
      if len(part.rows['storage']) and not part.rows['storage'].any():
        _refuse_paths(file, chosen.image, path)
    except UserError:
      raise
    except (parquet_pages.DamagedPageError, *_DAMAGE) as error:
      raise UserError(f'{path} is damaged: {one_line(error)}') from error
    finally:
      os.close(descriptor)
  _note_oddities(part, path, found)
  reader.finish(part)
  return part


def _find_leaf(file: pq.ParquetFile, image: str, path: str) -> int:
  """Returns the number of the column of bytes: nested ones count apart."""
  for i in range(len(file.schema)):
    if file.schema.column(i).path in (image, f'{image}.bytes'):
      return i
  raise UserError(f'{path}: the column {image!r} holds no bytes')


def _locate(
  file: pq.ParquetFile,
  path: str,
  descriptor: int,
  group: int,
  leaf: int,
  blocks: int,
) -> tuple[parquet_pages.Locations, str]:
  """Finds the pictures of a row group; also says the codec of what it cannot.

  Returns:
    Where they are, and '' or how they are stored.
  """
  about = file.metadata.row_group(group).column(leaf)
  column = file.schema.column(leaf)
  count = about.num_values
  # Every value takes three numbers in an index, all columns are in memory.
  needed = max(24 * count, file.metadata.row_group(group).total_byte_size)
  files.check_size(needed, f'a row group of {path}')
  codec = about.compression
  starts = [about.dictionary_page_offset, about.data_page_offset]
  plain = (
    column.max_repetition_level == 0
    and about.physical_type == 'BYTE_ARRAY'
    and codec in ('UNCOMPRESSED', 'SNAPPY')
  )
  if plain:
    chunk = parquet_pages.Chunk(
      start=min(start for start in starts if start),
      size=about.total_compressed_size,
      values=count,
      compressed=codec == 'SNAPPY',
      levels=column.max_definition_level,
    )
    try:
      return parquet_pages.locate(descriptor, chunk, blocks), ''
    except parquet_pages.UnreadablePageError as error:
      codec = f'{codec}, {error}'
  rows = np.arange(count, dtype=np.int64)
  located = parquet_pages.Locations(
    storage=np.full(count, GROUP, np.int64),
    offset=(group << _GROUP_BITS) | rows,
    size=np.zeros(count, np.int64),
    blocks=[],
    block_sizes=[],
  )
  statistics = about.statistics
  if not statistics or statistics.null_count != 0:
    values = file.read_row_group(group, columns=[column.path]).column(0)
    if pa.types.is_struct(values.type):
      values = pa.chunked_array(
        [chunk.field('bytes') for chunk in values.chunks], pa.binary()
      )
    located.storage[np.asarray(values.is_null())] = MISSING
  return located, codec


def _join(found: list[tuple[parquet_pages.Locations, str]]) -> Part:
  """Returns the part of a file from what was located in its groups."""

  def joined(name: str) -> np.ndarray:
    arrays = [getattr(located, name) for located, _ in found]
    return np.concatenate(arrays or [np.zeros(0)]).astype(np.int64)

  return Part(
    rows={name: joined(name) for name in ('storage', 'offset', 'size')},
    blobs={name: joined(name) for name in ('blocks', 'block_sizes')},
  )


def _note_oddities(part: Part, path: str, found: list):
  part.note(
    'rows have no picture',
    [
      f'{os.path.basename(path)}/{row:08d}'
      for row in np.flatnonzero(part.rows['storage'] == MISSING)
    ],
  )
  for located, codec in found:
    if codec:
      byte_index.add_note(
        part.notes,
        f'pictures ({codec}) can only be read with their row group, '
        'which is slow in random order: write them again in Snappy, or '
        'prepare them',
        len(located.storage),
        [os.path.basename(path)],
      )


def _refuse_paths(file: pq.ParquetFile, image: str, path: str):
  """Raises UserError if the rows hold paths in place of pictures."""
  table = file.read_row_group(0, columns=[image])
  values = table.column(0).slice(0, 1).to_pylist()
  given: Any = values[0].get('path') if values and values[0] else None
  if given:
    raise UserError(arrow_tables.only_paths(path, given))
