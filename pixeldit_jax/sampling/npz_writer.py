"""Writes a sample set to ADM's `.npz`, image by image and restartable.

Samples arrive in shards, each a file beside the `.npz`; a restarted run asks
which are missing. At the end they are streamed into one file, which appears
under its name only when it is whole. The bytes depend on the images alone.
"""

import os
import pathlib
import shutil
import zipfile

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling import provenance as plans
from pixeldit_jax.typing import Int, UInt8

SHARD = 64  # images per file: 13 MB at 256x256


class SampleStore:
  """A sample set on its way into one `.npz`; any host may write any shard.

  Beside `samples.npz` lie `samples.npz.json`, which says how the samples are
  made, and until the end the folder `samples.npz.shards`.
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
    """Opens or continues a sample set.

    Args:
      path: the `.npz` to write.
      count: images in the set.
      shape: (H, W, 3) of each.
      settings: all that decides the images (checkpoint, sampler, guidance,
        seed...), as JSON values; a set of other settings is never continued.
      shard: images per shard file.
      overwrite: whether a set of other settings makes room for this one.

    Raises:
      ValueError: a set of other settings is there.
    """
    self.path = pathlib.Path(path)
    self.count, self.shape, self.shard = count, tuple(shape), shard
    self._folder = self.path.with_name(self.path.name + '.shards')
    plan = dict(settings, count=count, shape=list(shape), shard=shard)
    plan = plans.as_json(plan)
    there = plans.read_plan(self.path)
    if overwrite and there != plan:
      self._remove()
    elif there is not None:
      plans.refuse_other(self.path, there, plan)
      return
    elif self.path.exists():
      raise UserError(
        f'{self.path} exists, but no {plans.path_of(self.path).name} says how '
        'it was made. Evaluate it with --images, or move it away.'
      )
    self._folder.mkdir(parents=True, exist_ok=True)
    plans.write_plan(self.path, plan)

  def _remove(self):
    # The plan goes last: images without one are never taken for any set's.
    self.path.unlink(missing_ok=True)
    shutil.rmtree(self._folder, ignore_errors=True)
    plans.path_of(self.path).unlink(missing_ok=True)

  @property
  def finished(self) -> bool:
    return self.path.exists()

  def _name(self, start: int) -> pathlib.Path:
    return self._folder / f'{start:08d}.raw'

  def spans(self) -> list[range]:
    """Sample indices of all shards."""
    starts = range(0, self.count, self.shard)
    return [range(s, min(s + self.shard, self.count)) for s in starts]

  def pending(self) -> list[range]:
    """Sample indices still to be made, one range per shard."""
    if self.finished:
      return []
    size = int(np.prod(self.shape))
    there = {}
    if self._folder.is_dir():
      there = {f.name: f.stat().st_size for f in os.scandir(self._folder)}
    return [
      span
      for span in self.spans()
      if there.get(self._name(span.start).name) != len(span) * size
    ]

  def write(self, span: range, images: UInt8[np.ndarray, 'B H W 3']):
    """Stores the samples of one pending range.

    Raises:
      ValueError: images of another count, shape or dtype.
    """
    expected = (len(span), *self.shape)
    if images.shape != expected or images.dtype != np.uint8:
      raise UserError(
        f'Got {images.dtype} {images.shape} for samples {span.start} to '
        f'{span.stop - 1}, expected uint8 {expected}.'
      )
    data = np.ascontiguousarray(images).data
    self._folder.mkdir(parents=True, exist_ok=True)
    _replace(self._name(span.start), lambda file: file.write(data))

  def finish(self, labels: Int[np.ndarray, 'N'] | None = None) -> pathlib.Path:
    """Joins the shards into the `.npz`, with labels as ADM's `arr_1`.

    Called by one host, after all have written.

    Raises:
      ValueError: samples are missing.
    """
    missing = self.pending()
    if missing:
      raise UserError(
        f'{self.path}: {sum(map(len, missing)):,} of {self.count:,} samples '
        f'are missing, from number {missing[0].start} on.'
      )
    if not self.finished:
      _replace(self.path, lambda file: self._join(file, labels))
    shutil.rmtree(self._folder, ignore_errors=True)
    return self.path

  def _join(self, file, labels):
    with zipfile.ZipFile(file, 'w') as archive:
      with _member(archive, 'arr_0') as stream:
        _write_header(stream, np.dtype(np.uint8), (self.count, *self.shape))
        for span in self.spans():
          with open(self._name(span.start), 'rb') as shard:
            shutil.copyfileobj(shard, stream, 1 << 20)
      if labels is not None:
        labels = np.asarray(labels)
        with _member(archive, 'arr_1') as stream:
          _write_header(stream, labels.dtype, labels.shape)
          stream.write(labels.tobytes())


def _replace(path: pathlib.Path, write):
  """Writes a file beside its place, then renames it."""
  beside = path.with_name(f'{path.name}.tmp')
  with open(beside, 'wb') as file:
    write(file)
  os.replace(beside, path)


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
