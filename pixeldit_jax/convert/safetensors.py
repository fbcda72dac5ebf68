"""Safetensors files, read and written one tensor at a time.

The form: 8 bytes with the length of a JSON header, the header (name to dtype,
shape and offsets), then the tensors without gaps, little-endian.
https://huggingface.co/docs/safetensors
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from pixeldit_jax.convert.lazy import (
  LazyTensors,
  Spec,
  specs_of,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.files import differs, parse_json, replacing

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
  'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
  'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
}
HEADER = 100_000_000  # bytes, as the form allows
_ENTRY = {'dtype': str, 'shape': [int], 'data_offsets': [int]}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_safetensors(path: str | os.PathLike) -> LazyTensors:
  """The tensors of a file, under the names they have there.

  Raises:
    UserError: the file is cut off, is not of this form, or has tensors of a
      dtype that is not in `DTYPES`.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  with path.open('rb') as file:
    start = 8 + int.from_bytes(file.read(8), 'little')
    if not 8 < start <= size:
      raise UserError(f'{path} is no safetensors file, or is cut off.')
    if start > HEADER:
      raise UserError(
        f'{path}: a header of {start:,} bytes; the form allows {HEADER:,}.'
      )
    text = file.read(start - 8).decode(errors='replace')
  header = parse_json(text, f'the header of {path}')
  header.pop('__metadata__', None)
  specs = {
    name: _spec_of(path, name, entry, size, start)
    for name, entry in header.items()
  }

  def read(name):
    begin, end = header[name]['data_offsets']
    data = np.fromfile(path, np.uint8, end - begin, offset=start + begin)
    return data.view(specs[name].dtype).reshape(specs[name].shape)

  return LazyTensors(specs, read)


def _spec_of(
  path: pathlib.Path, name: str, entry: Any, size: int, start: int
) -> Spec:
  """What the header says of a tensor, once it was found to be possible."""
  shown = ascii(name)[1:-1]  # of a stranger
  where = f'{path}: {shown}'
  if wrong := differs(entry, _ENTRY):
    raise UserError(f'{where}: {wrong}.')
  if entry['dtype'] not in DTYPES:
    raise UserError(
      f'{where} is {entry["dtype"]}; expected one of {[*DTYPES]}.'
    )
  spec = Spec(tuple(entry['shape']), DTYPES[entry['dtype']])
  offsets = entry['data_offsets']
  if len(offsets) != 2 or min((*spec.shape, *offsets)) < 0:
    raise UserError(f'{where}: impossible shape or offsets.')
  if offsets[1] - offsets[0] != spec.nbytes:
    raise UserError(
      f'{where}: {offsets[1] - offsets[0]} bytes for {spec.shape} of '
      f'{entry["dtype"]}.'
    )
  if start + offsets[1] > size:
    raise UserError(
      f'{path} is cut off: {size} bytes of at least {start + offsets[1]} (the '
      f'end of {shown}). Download it again.'
    )
  return spec


def write_safetensors(
  path: str | os.PathLike, weights: Mapping[str, np.ndarray]
) -> None:
  """Writes arrays (of NumPy or JAX, or `LazyTensors`) one at a time.

  Raises:
    UserError: an array of a dtype that is not in `DTYPES`.
  """
  specs = specs_of(weights)
  # Wide dtypes first, so that every tensor stands at a multiple of its dtype.
  order = sorted(specs, key=lambda name: -specs[name].dtype.itemsize)
  header, start = {}, 0
  for name in order:
    shape, dtype = spec = specs[name]
    if dtype not in NAMES:
      raise UserError(
        f'{name} is {dtype}; a safetensors file takes {[*map(str, NAMES)]}.'
      )
    end = start + spec.nbytes
    header[name] = {
      'dtype': NAMES[dtype],
      'shape': shape,
      'data_offsets': (start, end),
    }
    start = end
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  with replacing(path) as part, part.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for name in order:
      array = np.ascontiguousarray(weights[name])
      file.write(array.reshape(-1).view(np.uint8).data)
