"""Arrays beside prepared images: one for each example, by the same index.

A side array, say 'features', lies next to the shards: one ArrayRecord file of
arrays per shard of images, record by record, and `features.json`, its own
manifest. That says which images they belong to (the checksum of the images'
manifest) and what made them: the `meta` of `side_array_writer.write`.

  features.json
  features-00000-of-00064.array_record
  features.null                         a constant, where there are any

A record is the number of dimensions and each of them (4 bytes, little endian)
and the elements. Arrays of one name share their type, not their shape.
"""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401, with it np.dtype knows 'bfloat16'
import numpy as np

from pixeldit_jax import files as whole_files
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import MissingFileError, UserError

FORMAT = 'pixeldit_jax side arrays 1'  # the older name, kept on disk
IMAGES = 'manifest.json'  # the manifest of the images, in the same folder


def pack(array: np.ndarray) -> bytes:
  """Makes the record of one array."""
  sizes = struct.pack(f'<{array.ndim + 1}I', array.ndim, *array.shape)
  return sizes + array.tobytes()


def unpack(record: bytes, dtype: np.dtype) -> np.ndarray:
  """Returns the array of a record, read-only."""
  (ndim,) = struct.unpack_from('<I', record)
  shape = struct.unpack_from(f'<{ndim}I', record, 4)
  return np.frombuffer(record, dtype, offset=4 * (ndim + 1)).reshape(shape)


def manifest_path(path: str, name: str) -> str:
  """Returns where the manifest of a side array is: it is written last."""
  return os.path.join(path, f'{name}.json')


def read_manifest(path: str, name: str) -> dict[str, Any]:
  """Reads the manifest of a side array.

  Raises:
    FileNotFoundError: if there is none: not stored, or not to the end.
    UserError: if it is no manifest of this format.
  """
  place = manifest_path(path, name)
  if not os.path.exists(place):
    raise MissingFileError(
      f'no {place}: {name!r} is not stored beside these images, or not to the '
      'end; run the command that stores it (again)'
    )
  try:
    with open(place, encoding='utf-8') as file:
      manifest = json.load(file)
  except ValueError as error:
    raise UserError(f'{place} is damaged: {error}') from error
  if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
    raise UserError(f'{place} is no manifest of the format {FORMAT!r}')
  return manifest


class PrecomputedArrays:
  """The arrays of one name, by the index of the examples.

  Opening compares the sizes of the files and the checksum of the images'
  manifest.

  Attributes:
    manifest: what the writer left.
    meta: what made the arrays, as it was given to the writer.
    shape: of each array; None where they differ in shape.
    dtype: of their elements.
  """

  def __init__(self, path: str, name: str):
    self._path, self._name = os.path.abspath(path), name
    self.manifest = read_manifest(path, name)
    self.meta: dict[str, Any] = self.manifest['meta']
    shape = self.manifest['shape']
    self.shape = shape if shape is None else tuple(shape)
    self.dtype = np.dtype(self.manifest['dtype'])
    self.check()
    self._records = whole_files.open_records(self._path, self.manifest['files'])

  def __reduce__(self):
    return PrecomputedArrays, (self._path, self._name)

  def check(
    self,
    *,
    meta: Mapping[str, Any] | None = None,
    checksums: bool = False,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Checks the arrays before a run.

    Args:
      meta: the entries of `meta` that the run relies on.
      checksums: read every byte as well, each process its part of the files.
      process_index: this process.
      process_count: the processes that share the reading.

    Raises:
      ValueError: if anything is missing or differs; it names all of it.
    """
    files = self.manifest['files'] + self.manifest['constants']
    faults = whole_files.faults(
      self._path, files, checksums, process_index, process_count
    )
    images = os.path.join(self._path, IMAGES)
    if whole_files.sha256(images) != self.manifest['images']:
      faults.append(f'they belong to other images than those of {images}')
    faults += [
      f'{key} is {self.meta.get(key)!r}, the run expects {value!r}'
      for key, value in (meta or {}).items()
      if self.meta.get(key) != value
    ]
    if faults:
      raise UserError(
        f'{self._name!r} stored in {self._path} does not match: '
        f'{"; ".join(faults)}. Delete {self._name}.json and store it again, '
        'or mend the configuration'
      )

  def __len__(self) -> int:
    return self.manifest['examples']

  def __getitem__(self, index: int) -> np.ndarray:
    """Returns the array of one example; raises BadExample for a damaged one."""
    try:
      return unpack(self._records[index], self.dtype)
    # ArrayRecord reports a chunk that fails its own checksum as RuntimeError.
    except (RuntimeError, ValueError, struct.error) as error:
      raise BadExample(
        f'record {index} of {self._name!r} in {self._path}: {error}'
      ) from error

  def constant(self, name: str) -> np.ndarray:
    """Returns an array that belongs to no example, such as of no text."""
    for entry in self.manifest['constants']:
      if entry['name'] == name:
        with open(os.path.join(self._path, entry['file']), 'rb') as file:
          return unpack(file.read(), self.dtype)
    raise KeyError(name)
