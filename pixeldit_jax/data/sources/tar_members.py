"""The members of a tar and where their bytes are, by one scan of its headers.

Unlike `tarfile` it makes no object for each member, reads nothing but headers,
and compares their checksums. It knows PAX headers (which WebDataset puts in
front of every member), GNU's long names and sizes above 8 GB. Compressed and
sparse tars have no bytes to point at, and are refused.
"""

import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from pixeldit_jax.errors import UserError

log = logging.getLogger(__name__)

_RECORD = 512
_WINDOW = 64 * 1024  # read at a time while members are small
_REGULAR = (b'0', b'\0', b'7')
_COMPRESSED = {
  b'\x1f\x8b': ('gzip', 'gunzip'),
  b'BZh': ('bzip2', 'bunzip2'),
  b'\x28\xb5\x2f\xfd': ('zstd', 'zstd -d'),
  b'\xfd7zXZ': ('xz', 'unxz'),
}


class Member(NamedTuple):
  """A regular file in a tar."""

  name: str
  offset: int
  size: int


def scan(path: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
  """Yields the regular files of a tar, in its order.

  Args:
    path: the tar, or a file that holds one.
    start: where in the file the tar begins.
    end: where it ends, by default at the end of the file.

  Raises:
    UserError: if it is no tar, is cut short or compressed, or a header is
      damaged or says a size that cannot be.
  """
  with open(path, 'rb') as file:
    end = os.fstat(file.fileno()).st_size if end is None else end
    yield from _Scan(path, file.fileno(), start, end).run()


class _Scan:
  """Goes from header to header."""

  def __init__(self, path: str, descriptor: int, start: int, end: int):
    self._path, self._file = path, descriptor
    self._start, self._end = start, end
    self._window, self._base = b'', start

  def run(self) -> Iterator[Member]:
    """Yields the members; see `scan`."""
    position = self._start
    longer: dict[str, str] = {}  # name and size of the next member
    while position < self._end:
      header = self._read(position, _RECORD)
      if not any(header):
        return
      self._check(header, position)
      kind = header[156:157]
      size = _number(header[124:136])
      data = position + _RECORD
      if kind in _REGULAR and 'size' in longer:
        size = int(longer['size'])
      # Links and folders may say a size, but have no data.
      stored = 0 if kind in b'123456' else size
      if size < 0 or data + stored > self._end:
        raise UserError(
          f'{self._path} is cut short, or damaged: the member at {position} '
          f'says {size} bytes, {self._end - data} are left'
        )
      position = data + -(-stored // _RECORD) * _RECORD
      if kind == b'x':
        records = _parse_pax(self._read(data, size))
        if records is None or not records.get('size', '0').isdigit():
          raise UserError(f'{self._path} has a damaged PAX header at {data}')
        longer |= records
      elif kind == b'L':
        longer['path'] = _text(self._read(data, size))
      elif kind == b'S' or 'GNU.sparse.major' in longer:
        raise UserError(
          f'{self._path} has sparse members: write the tar again without '
          '--sparse'
        )
      elif kind not in (b'g', b'K'):
        if kind in _REGULAR:
          yield Member(longer.get('path') or _name(header), data, size)
        longer = {}
    if self._start < self._end:
      log.warning(
        '%s has no end mark: it may be cut short between two members',
        self._path,
      )

  def _read(self, position: int, size: int) -> bytes:
    """Reads ahead only where the next header is near."""
    within = position - self._base
    if 0 <= within and within + size <= len(self._window):
      return self._window[within : within + size]
    near = 0 <= within < 2 * _WINDOW
    ahead = max(size, _WINDOW if near else 2 * _RECORD)
    ahead = min(ahead, self._end - position)
    self._window, self._base = os.pread(self._file, ahead, position), position
    if len(self._window) < size:
      raise UserError(f'{self._path} is cut short at {position}')
    return self._window[:size]

  def _check(self, header: bytes, position: int):
    """Compares the checksum of a header."""
    wanted = _number(header[148:156])
    # The field itself counts as eight blanks.
    others = header[:148] + header[156:]
    total = sum(others) + 8 * ord(' ')
    if wanted == total:
      return
    if wanted == total - 256 * sum(byte > 127 for byte in others):
      return  # signed bytes, in tars of old Unix systems
    if position == self._start:
      for magic, (method, command) in _COMPRESSED.items():
        if header.startswith(magic):
          raise UserError(
            f'{self._path} is compressed by {method}, so that no member can be '
            f'read for itself: {command} it first'
          )
      raise UserError(f'{self._path} is no tar: its first header is none')
    raise UserError(
      f'{self._path} is damaged: the header at {position} has another checksum'
    )


def _number(field: bytes) -> int:
  """Reads a number in octal, or in base 256; -1 if it is neither."""
  if field[0] & 128:
    return int.from_bytes(field, 'big') - (128 << 8 * (len(field) - 1))
  try:
    return int(field.split(b'\0')[0].strip() or b'0', 8)
  except ValueError:
    return -1


def _text(data: bytes) -> str:
  return os.fsdecode(data.split(b'\0')[0])


def _name(header: bytes) -> str:
  name = _text(header[:100])
  # In POSIX headers the first part of a long name is apart; GNU has other data.
  prefix = _text(header[345:500]) if header[257:263] == b'ustar\0' else ''
  return f'{prefix}/{name}' if prefix else name


def _parse_pax(data: bytes) -> dict[str, str] | None:
  """Reads records 'length key=value\\n'; None if they are damaged."""
  found = {}
  while data.strip(b'\0'):
    length, _, _ = data.partition(b' ')
    size = int(length) if length.isdigit() else 0
    key, equals, value = data[len(length) + 1 : size].partition(b'=')
    if not equals or not value.endswith(b'\n') or size > len(data):
      return None
    found[os.fsdecode(key)] = os.fsdecode(value[:-1])
    data = data[size:]
  return found
