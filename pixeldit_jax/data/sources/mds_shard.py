"""The samples of one MDS shard, and what their columns hold.

A shard is the number n of its samples, n + 1 positions (4 bytes each) and the
samples: for each column of variable size that size (4 bytes), then the values.
"""

import io
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import UInt8

NUMBERS = {
  **{'int': '<q', 'int8': '<b', 'int16': '<h', 'int32': '<i', 'int64': '<q'},
  **{'uint8': '<B', 'uint16': '<H', 'uint32': '<I', 'uint64': '<Q'},
}
_PNG_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I', 'I;16')
_UINT8, _SIZES = 8, ('<u1', '<u2', '<u4', '<u8')  # in arrays that say theirs
Span = tuple[int, int]  # offset in the shard, size


class Samples:
  """The samples of one shard."""

  def __init__(self, path: str, descriptor: int, shard: dict[str, Any]):
    self._path, self._file = path, descriptor
    self._names = shard['column_names']
    self._encodings = dict(zip(self._names, shard['column_encodings']))
    self._sizes = shard['column_sizes']
    self._count = shard['samples']

  def locate(self) -> Iterator[dict[str, Span]]:
    """Yields, for each sample, the offset and size of each column.

    Raises:
      UserError: if sizes contradict each other.
    """
    length = os.fstat(self._file).st_size
    head = os.pread(self._file, 4 * (self._count + 2), 0)
    if len(head) < 4 * (self._count + 2):
      raise UserError(f'{self._path} is cut short')
    count, *starts = np.frombuffer(head, '<u4').tolist()
    if count != self._count or starts[-1] > length or starts[0] < len(head):
      raise UserError(
        f'{self._path} is damaged: it says {count} samples up to byte '
        f'{starts[-1]}, the index {self._count} in {length} bytes'
      )
    variable = sum(not size for size in self._sizes)
    for number, (start, end) in enumerate(zip(starts, starts[1:])):
      data = os.pread(self._file, 4 * variable, start)
      given = iter(struct.unpack(f'<{len(data) // 4}I', data))
      position, spans = start + 4 * variable, {}
      for name, size in zip(self._names, self._sizes):
        size = size or next(given, 0)
        spans[name] = (position, size)
        position += size
      if position != end:
        raise UserError(
          f'{self._path} is damaged: the columns of sample {number} have '
          f'{position - start} bytes, the sample {end - start}'
        )
      yield spans

  def value(self, name: str, spans: dict[str, Span]) -> Any:
    """Returns the number or text of a column; None for a damaged text."""
    offset, size = spans[name]
    data = os.pread(self._file, size, offset)
    encoding = self._encodings[name]
    if encoding in NUMBERS:
      return struct.unpack(NUMBERS[encoding], data)[0]
    try:
      text = data.decode()
      return json.loads(text) if encoding == 'json' else text
    except ValueError:
      return None


def decode(data: bytes, encoding: str) -> bytes | UInt8[np.ndarray, 'H W C']:
  """Returns a picture as an encoded file, or as pixels.

  Raises:
    BadExample: if it is damaged.
  """
  try:
    if encoding == 'pil':
      return _decode_pil(data)
    if encoding.startswith('ndarray'):
      return _decode_array(data, encoding)
  except (ValueError, LookupError, struct.error) as error:
    raise BadExample(f'damaged {encoding}: {error}') from error
  return data


def _decode_pil(data: bytes) -> bytes | UInt8[np.ndarray, 'H W C']:
  """Decodes width, height and length of the mode, the mode and the pixels."""
  width, height, length = struct.unpack_from('<3I', data)
  mode = data[12 : 12 + length].decode()
  image = Image.frombytes(mode, (width, height), data[12 + length :])
  if mode == 'RGB':
    return np.asarray(image)
  buffer = io.BytesIO()  # `transforms.decode` knows what each mode becomes
  image.save(buffer, 'PNG' if mode in _PNG_MODES else 'TIFF')
  return buffer.getvalue()


def _decode_array(data: bytes, encoding: str) -> UInt8[np.ndarray, 'H W C']:
  """Decodes pixels; type and shape are in the encoding or in front of them."""
  _, _, kind = encoding.partition(':')
  kind, _, shape = kind.partition(':')
  position = 0
  if not kind:
    kind = 'uint8' if data[0] == _UINT8 else f'type {data[0]}'
    position = 1
  if kind != 'uint8':
    raise ValueError(f'pixels must be uint8, not {kind}')
  if shape:
    sides = [int(side) for side in shape.split(',')]
  else:
    count, code = data[position] >> 2, _SIZES[data[position] & 3]
    sides = np.frombuffer(data, code, count, position + 1).tolist()
    position += 1 + count * int(code[2])
  pixels = np.frombuffer(data, np.uint8, offset=position).reshape(sides)
  return pixels[..., None] if pixels.ndim == 2 else pixels
