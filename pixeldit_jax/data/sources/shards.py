"""Prepared data: ArrayRecord shards under a manifest that vouches for them.

A record is the length of its header (4 bytes, little endian), a JSON header
(name, label, true height and width, bucket, captions) and the encoded image.
"""

import collections
import functools
import json
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeldit_jax import files
from pixeldit_jax.data import precomputed_arrays
from pixeldit_jax.data.array_records import count_faults, open_records
from pixeldit_jax.data.captions import Caption
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import buckets, downloads
from pixeldit_jax.typing import Int

FORMAT = 'pixeldit_jax shards 1'
MANIFEST = precomputed_arrays.IMAGES
BUCKET_INDEX = 'buckets.npy'
_FILE = {'file': str, 'bytes': int, 'sha256?': str}
_FORM = {
  'job?': dict,
  'resolution': int,
  'buckets': [[int]],
  'examples': int,
  'captions': int,
  'class_names': [str],
  'shards': [_FILE | {'examples': int}],
  'indices': [_FILE],
}


def pack(header: dict[str, Any], image: bytes) -> bytes:
  """Makes the record of one example."""
  text = json.dumps(header, ensure_ascii=False).encode()
  return struct.pack('<I', len(text)) + text + image


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
  """Returns the header and the encoded image of a record."""
  (length,) = struct.unpack_from('<I', record)
  return json.loads(record[4 : 4 + length]), record[4 + length :]


def read_manifest(path: str) -> dict[str, Any]:
  """Reads the manifest of a folder of shards.

  Raises:
    MissingFileError: there is none: not prepared, or not to the end.
    UserError: it is damaged, or no manifest of this format.
  """
  name = os.path.join(path, MANIFEST)
  manifest = files.read_manifest(
    name,
    FORMAT,
    f'run pixeldit prepare-data --out={path} (again, if it was interrupted)',
  )
  if wrong := files.differs(manifest, _FORM):
    raise UserError(f'{name} is damaged: {wrong}. Prepare the data again.')
  return manifest


def check_shards(
  path: str,
  *,
  resolution: int | None = None,
  checksums: bool = False,
  process_index: int = 0,
  process_count: int = 1,
) -> dict[str, Any]:
  """Checks prepared data before a run; returns their manifest.

  Args:
    path: the folder of shards.
    resolution: what the run expects, or None.
    checksums: read every byte of every process_count-th shard as well; all
      processes together then check all of them.
    process_index: this process.
    process_count: the processes that share the reading.

  Raises:
    MissingFileError: the manifest is not there.
    UserError: anything else is missing or differs; it names all of it.
  """
  manifest = read_manifest(path)
  wrong = []
  if resolution not in (None, manifest['resolution']):
    wrong.append(
      f'resolution is {manifest["resolution"]}, the run expects {resolution}'
    )
  wrong += _contradictions(manifest)
  wrong += files.verify_files(
    path,
    manifest['shards'] + manifest['indices'],
    checksums=checksums,
    process_index=process_index,
    process_count=process_count,
  )
  if wrong:
    raise UserError(
      f'the prepared data in {path} do not match: {"; ".join(wrong)}. '
      'Prepare them again into a new folder, or correct the configuration'
    )
  return manifest


def _contradictions(manifest: dict[str, Any]) -> list[str]:
  """What a manifest says of its examples that cannot all be true."""
  names = [entry['file'] for entry in manifest['shards']]
  twice = [n for n, count in collections.Counter(names).items() if count > 1]
  found = [f'{name} is listed twice' for name in twice]
  counted = sum(entry['examples'] for entry in manifest['shards'])
  if counted != manifest['examples']:
    found.append(
      f'its shards have {counted:,} examples, but {MANIFEST} says '
      f'{manifest["examples"]:,}'
    )
  return found


def open_part(path: str, indices: Sequence[int]) -> 'ShardSource':
  """Opens a folder of shards to read some of them; a bucket's are copied."""
  if not buckets.is_remote(path):
    return ShardSource(path)
  copy = downloads.fetch(f'{path}/{MANIFEST}').parent
  entries = read_manifest(str(copy))['shards']
  for index in indices:
    downloads.fetch(f'{path}/{entries[index]["file"]}')
  return ShardSource(str(copy), whole=False)


class ShardSource(Source):
  """The examples of a folder of shards, by index over all shards.

  Opening reads only the manifests and compares the sizes of the files.

  Attributes:
    manifest: what `pixeldit prepare-data` wrote.
  """

  def __init__(
    self, path: str, arrays: Sequence[str] = (), *, whole: bool = True
  ):
    """Opens it.

    Args:
      path: the folder.
      arrays: names of precomputed arrays that come with the examples.
      whole: whether all shards are there; others are not read then.
    """
    self._path, self._whole = os.path.abspath(path), whole
    self.manifest = check_shards(path) if whole else read_manifest(path)
    self.class_names = tuple(self.manifest['class_names'])
    self.captions = self.manifest['captions'] > 0
    self.buckets = tuple(map(tuple, self.manifest['buckets']))
    self.resolution = self.manifest['resolution']
    self._arrays = {
      name: precomputed_arrays.PrecomputedArrays(self._path, name)
      for name in arrays
    }
    self.arrays = self._arrays
    self._records = open_records(self._path, self.manifest['shards'])

  def __reduce__(self):
    arguments = self._path, tuple(self._arrays)
    return functools.partial(ShardSource, whole=self._whole), arguments

  def with_arrays(self, names: Sequence[str]) -> 'ShardSource':
    return ShardSource(self._path, names)

  def check(self, *, resolution: int | None = None, **reading: Any) -> None:
    check_shards(self._path, resolution=resolution, **reading)
    first = reading.get('process_index', 0)
    part = self.manifest['shards'][first :: reading.get('process_count', 1)]
    wrong = count_faults(self._path, part)
    if wrong:
      raise UserError(
        f'the prepared data in {self._path} do not match: {"; ".join(wrong)}. '
        'Prepare them again into a new folder.'
      )
    for arrays in self._arrays.values():
      arrays.check(**reading)

  def bucket_of_examples(self) -> Int[np.ndarray, 'N']:
    if not self.buckets:
      return super().bucket_of_examples()
    return np.load(os.path.join(self._path, BUCKET_INDEX))

  def __len__(self) -> int:
    return self.manifest['examples']

  def __getitem__(self, index: int) -> Example:
    try:
      header, image = unpack(self._records[index])
    # ArrayRecord reports a chunk that fails its own checksum as RuntimeError.
    except (RuntimeError, ValueError, struct.error) as error:
      raise BadExample(f'record {index} of {self._path}: {error}') from error
    example = Example(
      image=image,
      label=header['label'],
      name=header['name'],
      size=(header['height'], header['width']),
    )
    if 'captions' in header:
      example['captions'] = [Caption(*item) for item in header['captions']]
    if self._arrays:
      example['arrays'] = {
        name: arrays[index] for name, arrays in self._arrays.items()
      }
    return example
