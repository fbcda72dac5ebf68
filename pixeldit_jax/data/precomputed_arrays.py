"""Arrays that were computed for prepared images, next to their shards.

The arrays of one name, say 'features', have one ArrayRecord file for each shard
of images, record by record, and a manifest. That says which images they belong
to (the checksum of the images' manifest) and what made them: the `meta` of a
`prepare.precompute.Computation`.

  features.json
  features-00000-of-00064.array_record
  features.null                         a constant, where there are any

A record is the number of dimensions and each of them (4 bytes, little endian)
and the elements. Arrays of one name share their type, not their shape.
"""

import os
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401, with it np.dtype knows 'bfloat16'
import numpy as np

from pixeldit_jax import files
from pixeldit_jax.data.array_records import open_records
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import downloads

FORMAT = 'pixeldit_jax side arrays 1'  # their former name
LATENTS = 'latents'  # the name of those that stand for images
IMAGES = 'manifest.json'  # the manifest of the images, in the same folder
# What stores the arrays of a name.
_COMMANDS = {
  'text': 'pixeldit encode-text --data=',
  'text_mask': 'pixeldit encode-text --data=',
  'features': 'pixeldit prepare-data --features=TEACHER --out=',
}


def pack(array: np.ndarray) -> bytes:
  """Makes the record of one array."""
  sizes = struct.pack(f'<{array.ndim + 1}I', array.ndim, *array.shape)
  return sizes + array.tobytes()


def unpack(record: bytes, dtype: np.dtype) -> np.ndarray:
  """Returns the array of a record, read-only."""
  (ndim,) = struct.unpack_from('<I', record)
  shape = struct.unpack_from(f'<{ndim}I', record, 4)
  return np.frombuffer(record, dtype, offset=4 * (ndim + 1)).reshape(shape)


def read_manifest(path: str, name: str) -> dict[str, Any]:
  """Reads the manifest of the arrays of one name in a folder of shards.

  Raises:
    MissingFileError: there is none: not stored, or not to the end.
    UserError: it is damaged, or no manifest of this format.
  """
  return files.read_manifest(
    os.path.join(path, f'{name}.json'),
    FORMAT,
    f'{name!r} is not stored next to these images, or not to the end; run '
    f'{_COMMANDS.get(name, "what stored it in ")}{path} (again)',
  )


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
    path = downloads.here(path)
    self._path, self._name = os.path.abspath(path), name
    self.manifest = read_manifest(path, name)
    self.meta: Mapping[str, Any] = self.manifest['meta']
    shape = self.manifest['shape']
    self.shape: tuple[int, ...] | None = None if shape is None else tuple(shape)
    self.dtype = np.dtype(self.manifest['dtype'])
    self.check()
    self._records = open_records(self._path, self.manifest['files'])

  def __reduce__(self):
    return PrecomputedArrays, (self._path, self._name)

  def check(
    self,
    *,
    checksums: bool = False,
    process_index: int = 0,
    process_count: int = 1,
  ) -> None:
    """Checks the arrays before a run.

    Args:
      checksums: read every byte as well, each process its part of the files.
      process_index: this process.
      process_count: the processes that share the reading.

    Raises:
      UserError: anything is missing or differs; it names all of it.
    """
    wrong = files.verify_files(
      self._path,
      self.manifest['files'] + self.manifest['constants'],
      checksums=checksums,
      process_index=process_index,
      process_count=process_count,
    )
    images = os.path.join(self._path, IMAGES)
    if files.sha256(images) != self.manifest['images']:
      wrong.append(f'they belong to other images than those of {images}')
    if wrong:
      raise UserError(
        f'{self._name!r} stored in {self._path} does not match: '
        f'{"; ".join(wrong)}. Delete {self._name}.json and store it again'
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
