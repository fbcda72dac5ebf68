"""Writes a sample set to ADM's `.npz`, image by image and restartable.

Samples arrive in shards, each a file in a folder next to the `.npz`; a
restarted run asks which are missing. At the end they are streamed into one
file, which appears under its name only when it is complete. Its bytes depend
only on the images and labels.
"""

import contextlib
import os
import re
import shutil
import zipfile

import numpy as np
from etils import epath

from pixeldit_jax import files, outputs
from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling import provenance
from pixeldit_jax.settings import as_json
from pixeldit_jax.storage import buckets
from pixeldit_jax.typing import Int, UInt8

SHARD = 64  # images per file: 13 MB at 256x256


class SampleStore:
  """A sample set that becomes one `.npz`; any host may write any shard.

  Next to `samples.npz` are `samples.npz.json`, the settings of the samples,
  and until the end the folder `samples.npz.shards`.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    count: int,
    shape: tuple[int, int, int],
    settings: dict,
    *,
    shard: int = SHARD,
    overwrite: bool = False,
  ):
    """Starts or continues a sample set.

    Args:
      path: the `.npz` to write.
      count: images in the set.
      shape: (H, W, 3) of each.
      settings: everything that decides the images (checkpoint, sampler,
        guidance, seed...), as JSON values; a set of other settings is never
        continued.
      shard: images per shard file.
      overwrite: remove a set of other settings first.

    Raises:
      UserError: a set of other settings exists, or a file without settings.
    """
    self.path = outputs.path_of(path)
    self.count, self.shape, self.shard = count, tuple(shape), shard
    self._folder = self.path.with_name(self.path.name + '.shards')
    asked = dict(settings, count=count, shape=list(shape), shard=shard)
    asked = as_json(asked)
    stored = provenance.read_settings(self.path)
    if stored == asked:
      return
    if stored is not None and overwrite:
      self._remove()
    elif stored is not None:
      provenance.check_same(self.path, stored, asked)
    elif self.path.exists():
      raise UserError(
        f'{self.path} exists, but no {provenance.path_of(self.path).name} says '
        'how it was made. Evaluate it with --images, or move it away.'
      )
    self._folder.mkdir(parents=True, exist_ok=True)
    provenance.write_settings(self.path, asked)

  def _remove(self):
    outputs.check([self.path])
    # The settings go last: images without them are never taken for a set's.
    self.path.unlink(missing_ok=True)
    self._remove_shards()
    provenance.path_of(self.path).unlink(missing_ok=True)

  @property
  def finished(self) -> bool:
    """Whether the `.npz` is complete."""
    return self.path.exists()

  def _name(self, start: int) -> epath.Path:
    return self._folder / f'{start:08d}.raw'

  def spans(self) -> list[range]:
    """Sample indices of all shards."""
    starts = range(0, self.count, self.shard)
    return [range(s, min(s + self.shard, self.count)) for s in starts]

  def pending(self) -> list[range]:
    """Sample indices that are still missing, one range per shard."""
    if self.finished:
      return []
    size = int(np.prod(self.shape))
    sizes = files.sizes_in(self._folder)
    return [
      span
      for span in self.spans()
      if sizes.get(self._name(span.start).name) != len(span) * size
    ]

  def write(self, span: range, images: UInt8[np.ndarray, 'B H W 3']):
    """Stores the samples of one pending range.

    Raises:
      UserError: images of another count, shape or dtype.
    """
    expected = (len(span), *self.shape)
    if images.shape != expected or images.dtype != np.uint8:
      raise UserError(
        f'Got {images.dtype} {images.shape} for samples {span.start} to '
        f'{span.stop - 1}, expected uint8 {expected}.'
      )
    data = images.tobytes()
    files.write_bytes(self._name(span.start), data)

  def finish(self, labels: Int[np.ndarray, 'I'] | None = None) -> epath.Path:
    """Joins the shards into the `.npz`, with labels as ADM's `arr_1`.

    Called by one host, after all have written.

    Raises:
      UserError: samples are missing.
    """
    missing = self.pending()
    if missing:
      raise UserError(
        f'{self.path}: {sum(map(len, missing)):,} of {self.count:,} samples '
        f'are missing, from number {missing[0].start} on.'
      )
    if not self.finished:
      # A process that was killed here left its half-written file.
      files.remove_temporaries(str(self.path.parent), [self.path.name])
      with outputs.replacing(self.path) as temporary:
        with open(temporary, 'wb') as file:
          self._join(file, labels)
    self._remove_shards()
    return self.path

  def _remove_shards(self):
    """Removes the shards, and their folder where nothing else lies in it."""
    files.remove_temporaries(str(self._folder))
    shards = [
      self._folder / name
      for name in files.sizes_in(self._folder)
      if re.fullmatch(r'\d{8,}\.raw(\.tmp)?', name)
    ]
    if buckets.is_remote(self._folder):
      buckets.remove(shards)  # there are no folders
      return
    outputs.remove(shards)
    with contextlib.suppress(OSError):
      self._folder.rmdir()

  def _join(self, file, labels):
    with zipfile.ZipFile(file, 'w') as archive:
      with _member(archive, 'arr_0') as stream:
        _write_header(stream, np.dtype(np.uint8), (self.count, *self.shape))
        for span in self.spans():
          with self._name(span.start).open('rb') as shard:
            shutil.copyfileobj(shard, stream, 1 << 20)
      if labels is not None:
        labels = np.asarray(labels)
        with _member(archive, 'arr_1') as stream:
          _write_header(stream, labels.dtype, labels.shape)
          stream.write(labels.tobytes())


def _member(archive: zipfile.ZipFile, name: str):
  # A fixed date: equal images give equal files.
  info = zipfile.ZipInfo(f'{name}.npy', date_time=(1980, 1, 1, 0, 0, 0))
  return archive.open(info, 'w', force_zip64=True)


def _write_header(stream, dtype: np.dtype, shape: tuple[int, ...]):
  header = {
    'descr': np.lib.format.dtype_to_descr(dtype),
    'fortran_order': False,
    'shape': shape,
  }
  np.lib.format.write_array_header_1_0(stream, header)
