"""Where each value of a Parquet column is: its pages, walked once.

pyarrow reads no single row, but a whole group of them: 100 MB in the files that
`datasets` writes today. The pages hold each value in one piece, though. Read
here are those of flat binary columns that are PLAIN, or a dictionary and its
indices, and uncompressed or in Snappy; others are left to pyarrow.
Format: github.com/apache/parquet-format.
"""

import dataclasses
import os
import struct

import numpy as np
import pyarrow as pa

from pixeldit_jax.data.sources import compact_thrift, snappy
from pixeldit_jax.data.sources.byte_index import BLOCK, MISSING, PLAIN, SNAPPY

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3  # types of pages
_KNOWN = (_DATA, _DICTIONARY, _DATA_2)
_PLAIN, _DICTIONARY_PLAIN, _RLE, _DICTIONARY_RLE = 0, 2, 3, 8  # encodings


class UnreadablePageError(Exception):
  """A page of a form that is not read here, but by pyarrow."""


class DamagedPageError(Exception):
  """A page that contradicts itself or is cut short."""


@dataclasses.dataclass
class Locations:
  """Where values are: as the rows and blobs of an index."""

  storage: np.ndarray
  offset: np.ndarray
  size: np.ndarray
  blocks: list[int]
  block_sizes: list[int]


@dataclasses.dataclass(frozen=True)
class Chunk:
  """The values of a column in one row group.

  Attributes:
    start: of its first page in the file.
    size: of all its pages, in bytes.
    values: how many there are, absent ones included.
    compressed: whether by Snappy.
    levels: the definition level of a value that is there.
  """

  start: int
  size: int
  values: int
  compressed: bool
  levels: int


def locate(descriptor: int, chunk: Chunk, blocks_before: int) -> Locations:
  """Finds the values of a chunk.

  Args:
    descriptor: of the open file.
    chunk: what to walk.
    blocks_before: the blocks of the file that were found so far.

  Raises:
    UnreadablePageError: if pyarrow has to read this chunk.
    DamagedPageError: if nothing can.
  """
  return _Walk(descriptor, chunk, blocks_before).run()


@dataclasses.dataclass(frozen=True)
class _Page:
  """A page header, and where the page is.

  Attributes:
    kind: data, a dictionary, or data in the second form.
    start: of the content in the file.
    size: of it there, in bytes.
    length: of it when decompressed.
    values: how many there are, absent ones included.
    encoding: of the values.
    levels_encoding: of the definition levels; only of the first form.
    repetition_bytes: of levels in front of the content; only of the second.
    definition_bytes: likewise.
    compressed: whether the values are.
  """

  kind: int
  start: int
  size: int
  length: int
  values: int
  encoding: int
  levels_encoding: int
  repetition_bytes: int
  definition_bytes: int
  compressed: bool


class _Walk:
  """Goes through the pages of one chunk."""

  def __init__(self, descriptor: int, chunk: Chunk, blocks_before: int):
    self._file, self._chunk, self._before = descriptor, chunk, blocks_before
    self._dictionary = np.zeros((0, 3), np.int64)
    self._blocks: list[int] = []
    self._block_sizes: list[int] = []

  def run(self) -> Locations:
    """Returns where the values are."""
    position, end = self._chunk.start, self._chunk.start + self._chunk.size
    found, count = [np.zeros((0, 3), np.int64)], 0
    while position < end and count < self._chunk.values:
      page = _read_header(self._file, position, end, self._chunk.compressed)
      position = page.start + page.size
      if page.kind == _DICTIONARY:
        if page.encoding not in (_PLAIN, _DICTIONARY_PLAIN):
          raise UnreadablePageError('dictionary')
        self._dictionary = self._plain(page, page.values, 0)
      elif page.kind in (_DATA, _DATA_2):
        if page.values > self._chunk.values - count:
          raise DamagedPageError('number of values')
        found.append(self._data(page))
        count += page.values
    if count != self._chunk.values:
      raise DamagedPageError('number of values')
    storage, offset, size = np.concatenate(found).T
    return Locations(storage, offset, size, self._blocks, self._block_sizes)

  def _data(self, page: _Page) -> np.ndarray:
    """Returns storage, offset and size of the values of a page, [n, 3]."""
    page, levels, skipped = self._split_levels(page)
    there = np.ones(page.values, bool)
    if self._chunk.levels:
      width = self._chunk.levels.bit_length()
      there = read_runs(levels, width, page.values) == self._chunk.levels
    values = np.zeros((page.values, 3), np.int64)
    values[:, 0] = MISSING
    count = int(there.sum())
    if page.encoding == _PLAIN:
      values[there] = self._plain(page, count, skipped)
    elif page.encoding in (_DICTIONARY_PLAIN, _DICTIONARY_RLE):
      data = self._content(page)[skipped:]
      numbers = read_runs(data[1:], data[0] if data else 0, count)
      if len(numbers) and numbers.max() >= len(self._dictionary):
        raise DamagedPageError('dictionary index')
      values[there] = self._dictionary[numbers]
    else:
      raise UnreadablePageError('encoding')
    return values

  def _split_levels(self, page: _Page) -> tuple[_Page, bytes, int]:
    """Returns a page, its definition levels, and their length inside it."""
    if page.kind == _DATA_2:  # they are in front, never compressed
      before = page.repetition_bytes + page.definition_bytes
      levels = _pread(self._file, before, page.start)[page.repetition_bytes :]
      rest = dataclasses.replace(
        page,
        start=page.start + before,
        size=page.size - before,
        length=page.length - before,
      )
      if min(rest.size, rest.length) < 0:
        raise DamagedPageError('levels')
      return rest, levels, 0
    if not self._chunk.levels:
      return page, b'', 0
    if page.levels_encoding != _RLE:
      raise UnreadablePageError('levels')
    if page.compressed:
      data = self._content(page)
    else:  # perhaps of many megabytes
      size = 4 + _length(_pread(self._file, 4, page.start), 0)
      if size > page.size:
        raise DamagedPageError('levels')
      data = _pread(self._file, size, page.start)
    skipped = 4 + _length(data, 0)
    return page, data[4:skipped], skipped

  def _content(self, page: _Page) -> bytes:
    data = _pread(self._file, page.size, page.start)
    return _decompress(data, page.length) if page.compressed else data

  def _plain(self, page: _Page, count: int, skipped: int) -> np.ndarray:
    """Returns storage, offset and size of `count` values, [n, 3].

    Each is its length (4 bytes) and its bytes; they begin after `skipped`.
    """
    values = np.zeros((count, 3), np.int64)
    if not page.compressed:
      values[:, 0] = PLAIN
      self._walk_file(page.start + skipped, page.start + page.size, values)
      return values
    data = _pread(self._file, page.size, page.start)
    blocks = snappy.find_blocks(data)
    if blocks is None:
      raise UnreadablePageError('blocks')
    content = _decompress(data, page.length)
    position = skipped
    for value in values:
      size = _length(content, position)
      value[1:] = position + 4, size
      position += 4 + size
    if position > len(content):
      raise DamagedPageError('length')
    values[:, 0] = SNAPPY
    values[:, 1] += (self._before + len(self._blocks)) * BLOCK
    self._blocks += [page.start + block for block in blocks]
    sizes = [BLOCK] * (len(blocks) - 1)
    if sizes:
      sizes[-1] = len(content) - BLOCK * (len(sizes) - 1)
    self._block_sizes += [*sizes, 0]  # the last entry is the end of the page
    return values

  def _walk_file(self, start: int, end: int, values: np.ndarray):
    """Fills in offset and size of values that are in the file as they are."""
    window, base = b'', start
    for value in values:
      if start + 4 > base + len(window):
        # Small values come many at a time, large ones by their length alone.
        size = max(0, min(4096, end - start))
        window, base = _pread(self._file, size, start), start
      size = _length(window, start - base)
      value[1:] = start + 4, size
      start += 4 + size
    if start > end:
      raise DamagedPageError('length')


def read_runs(data: bytes, width: int, count: int) -> np.ndarray:
  """Decodes `count` numbers of `width` bits in runs and packed groups of 8."""
  numbers = np.zeros(count, np.int64)
  if not width:
    return numbers
  done = position = 0
  try:
    while done < count:
      run, position = compact_thrift.read_varint(data, position)
      if run & 1:
        length = (run >> 1) * 8
        packed = data[position : position + (run >> 1) * width]
        position += len(packed)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder='little')
        whole = bits[: len(bits) // width * width].reshape(-1, width)
        values = whole.astype(np.int64) @ (1 << np.arange(width))
        length = min(len(values), count - done)
        numbers[done : done + length] = values[:length]
      else:
        length = min(run >> 1, count - done)
        size = (width + 7) // 8
        value = int.from_bytes(data[position : position + size], 'little')
        position += size
        numbers[done : done + length] = value
      if not length:
        raise DamagedPageError('run')
      done += length
  except IndexError as error:
    raise DamagedPageError('run') from error
  return numbers


def _read_header(
  descriptor: int, position: int, end: int, compressed: bool
) -> _Page:
  """Reads the page header at a position of a chunk that ends at `end`."""
  size = 512
  while True:
    data = _pread(descriptor, min(size, end - position), position)
    try:
      fields, length = compact_thrift.read_struct(data, 0)
      break
    except (IndexError, struct.error) as error:  # statistics may be long
      if size >= min(2**20, end - position):
        raise DamagedPageError('header') from error
      size *= 16
    except ValueError as error:
      raise DamagedPageError('header') from error
  try:
    kind = fields[1]
    about = fields[{_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}.get(kind, 1)]
    second = kind == _DATA_2
    page = _Page(
      kind=kind,
      start=position + length,
      size=fields[3],
      length=fields[2],
      values=about[1] if kind in _KNOWN else 0,
      encoding=about[4 if second else 2] if kind in _KNOWN else 0,
      levels_encoding=about[3] if kind == _DATA else _RLE,
      repetition_bytes=about[6] if second else 0,
      definition_bytes=about[5] if second else 0,
      compressed=compressed and (not second or about.get(7, True)),
    )
  except (KeyError, TypeError) as error:
    raise DamagedPageError('header') from error
  # Snappy makes 64 bytes of 3 at best.
  most = 32 * page.size + 64 if compressed else page.size
  if min(page.size, page.length, page.values) < 0 or (
    page.start + page.size > end or page.length > most
  ):
    raise DamagedPageError('length of a page')
  return page


def _decompress(data: bytes, length: int) -> bytes:
  try:
    return pa.decompress(data, length, 'snappy', asbytes=True)
  except (OSError, pa.ArrowException) as error:
    raise DamagedPageError(str(error)) from error


def _length(data: bytes, position: int) -> int:
  try:
    return struct.unpack_from('<I', data, position)[0]
  except struct.error as error:
    raise DamagedPageError('length') from error


def _pread(descriptor: int, size: int, position: int) -> bytes:
  data = os.pread(descriptor, size, position)
  if len(data) < size:
    raise DamagedPageError('end of file')
  return data
