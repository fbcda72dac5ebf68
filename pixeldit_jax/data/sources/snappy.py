"""Ranges of a page in Snappy, without decompressing all of it.

Every writer in use compresses 64 KiB of its input at a time: no copy reaches
back over such a boundary, and no element of the stream crosses one. With the
position of each block kept, a range needs only the blocks that cover it.
Format: github.com/google/snappy, format_description.txt.
"""

import pyarrow as pa

from pixeldit_jax.data.sources.byte_index import BLOCK
from pixeldit_jax.data.sources.compact_thrift import read_varint
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import one_line


def find_blocks(data: bytes) -> list[int] | None:
  """Returns where in the stream each block of 64 KiB starts, and its end.

  Returns:
    None if the blocks depend on each other or the stream is damaged.
  """
  try:
    total, position = read_varint(data, 0)
    starts, done, block = [], 0, 0
    while position < len(data):
      if done == block:
        starts.append(position)
        block += BLOCK
      tag = data[position]
      kind = tag & 3
      if kind == 0:
        length = tag >> 2
        extra = max(0, length - 59)
        if extra:
          length = int.from_bytes(
            data[position + 1 : position + 1 + extra], 'little'
          )
        length += 1
        position += 1 + extra + length
      else:
        if kind == 1:
          length = ((tag >> 2) & 7) + 4
          back = (tag >> 5) << 8 | data[position + 1]
        else:
          length = (tag >> 2) + 1
          back = int.from_bytes(
            data[position + 1 : position + (3 if kind == 2 else 5)], 'little'
          )
        if back > done - (block - BLOCK):
          return None
        position += (2, 3, 5)[kind - 1]
      done += length
      if done > block:
        return None
  except IndexError:
    return None
  return (
    [*starts, position] if done == total and position == len(data) else None
  )


def decompress_blocks(data: bytes, size: int) -> bytes:
  """Decompresses neighbouring blocks, of `size` bytes when decompressed.

  Raises:
    BadExample: if they are damaged.
  """
  length = bytearray()
  rest = size
  while rest > 127:
    length.append(rest & 127 | 128)
    rest >>= 7
  length.append(rest)
  try:
    return pa.decompress(bytes(length) + data, size, 'snappy', asbytes=True)
  except (OSError, ValueError) as error:  # of pyarrow, where data are damaged
    raise BadExample(f'damaged page: {one_line(error)}') from error
