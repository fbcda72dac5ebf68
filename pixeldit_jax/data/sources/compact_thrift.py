"""Structs of Thrift's compact protocol, as Parquet's headers are.

Format: github.com/apache/thrift, thrift-compact-protocol.md. Data that end too
early raise IndexError or struct.error, what is no such struct ValueError.
"""

import struct
from typing import Any


def read_struct(data: bytes, position: int) -> tuple[dict[int, Any], int]:
  """Reads a struct of Thrift's compact protocol; returns it and its end."""
  fields: dict[int, Any] = {}
  number = 0
  while True:
    byte = data[position]
    position += 1
    if not byte:
      return fields, position
    if byte >> 4:
      number += byte >> 4
    else:
      number, position = _read_zigzag(data, position)
    kind = byte & 15
    if kind in (1, 2):
      fields[number] = kind == 1
    else:
      fields[number], position = _read_value(data, position, kind)


def _read_value(data: bytes, position: int, kind: int) -> tuple[Any, int]:
  if kind == 3:
    return data[position], position + 1
  if kind in (4, 5, 6):
    return _read_zigzag(data, position)
  if kind == 7:
    return struct.unpack_from('<d', data, position)[0], position + 8
  if kind == 8:
    length, position = read_varint(data, position)
    if position + length > len(data):
      raise IndexError(length)
    return data[position : position + length], position + length
  if kind in (9, 10):
    head = data[position]
    length, position = head >> 4, position + 1
    if length == 15:
      length, position = read_varint(data, position)
    items = []
    for _ in range(length):
      item, position = _read_value(data, position, head & 15)
      items.append(item)
    return items, position
  if kind == 12:
    return read_struct(data, position)
  if kind in (1, 2):  # inside a list, a byte of its own
    return data[position] == 1, position + 1
  raise ValueError(f'a field of type {kind}')


def _read_zigzag(data: bytes, position: int) -> tuple[int, int]:
  value, position = read_varint(data, position)
  return value >> 1 ^ -(value & 1), position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
  """Returns a number of 7 bits a byte, low ones first, and where it ends."""
  value = shift = 0
  while True:
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
    shift += 7
