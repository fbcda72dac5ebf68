"""Computes an array for every prepared image and stores it next to the shards.

A `ShardJob`: one file of arrays for each shard of images, then the manifest
`NAME.json`. The format is that of `precomputed_arrays`.
"""

import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from pixeldit_jax import files
from pixeldit_jax.data import precomputed_arrays
from pixeldit_jax.data.array_records import write_records
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.prepare.shard_job import (
  ALONE,
  Peers,
  Report,
  Runner,
  ShardJob,
  ShardTask,
  run_here,
)
from pixeldit_jax.data.source import Example
from pixeldit_jax.data.sources import shards
from pixeldit_jax.errors import UserError
from pixeldit_jax.progress import Progress
from pixeldit_jax.storage import buckets
from pixeldit_jax.typing import Array

log = logging.getLogger(__name__)


def _unchanged(example: Example) -> Example:
  return example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computation:
  """An array for every image: what makes it and how it is stored.

  Attributes:
    name: of the arrays, and so of their files and of their key in batches.
    compute: takes loaded examples, always `batch_size` of them (the last one is
      repeated to fill, so that one compilation serves), and returns an array
      for each: [B, ...], or a list of arrays of any shapes. It is called again
      before its last result is read, so a device is kept busy. It and `load`
      can be pickled where the runner has other processes.
    meta: what the arrays are made by (name and checksum of the network, ...),
      of JSON values; other values are other arrays.
    load: what `compute` takes of one example, 'image' still encoded; called in
      threads, ahead of `compute`.
    dtype: of the stored elements.
    constants: arrays that belong to no example, by name.
    batch_size: examples of one call of `compute`.
    num_threads: that load; 0 means one per core.
    cut: how many inputs were too long for `compute` so far, in this process.
  """

  name: str
  compute: Callable[[list[Any]], Array | Sequence[np.ndarray]]
  meta: Mapping[str, Any]
  load: Callable[[Example], Any] = _unchanged
  dtype: str = 'bfloat16'
  constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  batch_size: int = 64
  num_threads: int = 0
  cut: Callable[[], int] = int  # 0

  def __post_init__(self):
    reserved = ('manifest', 'images', 'buckets')
    if not re.fullmatch('[a-z][a-z0-9_]*', self.name) or self.name in reserved:
      raise UserError(
        f'precomputed arrays {self.name!r}: use lower-case letters, digits and '
        f'_, and not one of {reserved}'
      )


def precompute(
  path: str,
  computation: Computation,
  peers: Peers = ALONE,
  runner: Runner = run_here,
) -> dict[str, Any]:
  """Stores the array of every example; returns the manifest of the arrays.

  Inputs that were cut are logged, summed over all processes of the runner.

  Run again after an interruption, it goes on with the shards not yet done; run
  again when done, it checks what is there.

  Args:
    path: a folder of shards, as `pixeldit prepare-data` wrote it.
    computation: what is stored.
    peers: the processes that share the work.
    runner: of this process's shards.

  Raises:
    MissingFileError: there are no prepared images.
    UserError: they are damaged, the name holds something else, or what is
      computed is not finite.
  """
  buckets.check(path)
  images = shards.check_shards(path)
  job = _make_job(path, computation, images, peers)
  if job.is_done():
    stored = precomputed_arrays.PrecomputedArrays(path, computation.name)
    stored.check(
      checksums=True, process_index=peers.index, process_count=peers.count
    )
    return stored.manifest
  task = ComputeArrays(path, computation, job.shards, _spans(images))
  progress = Progress(f'Stored {computation.name} of', images['examples'])
  done = sum(report['examples'] for report in job.finished().values())
  cut = 0
  for _, report in job.run(task, runner):
    done, cut = done + report['examples'], cut + report['cut']
    if runner is not run_here:  # there, `write_all` tells of every image
      progress(done)
  if cut:
    log.warning('%s: %d inputs were cut', computation.name, cut)
  job.finish(lambda reports: _make_manifest(job, computation, reports))
  return precomputed_arrays.read_manifest(path, computation.name)


def refuse_other(path: str, computation: Computation) -> None:
  """Raises UserError where `precompute` would: the name holds other arrays."""
  _make_job(path, computation, shards.check_shards(path), ALONE).is_done()


def _make_job(
  path: str, computation: Computation, images: dict[str, Any], peers: Peers
) -> ShardJob:
  name, count = computation.name, len(images['shards'])
  names = [
    f'{name}-{index:05d}-of-{count:05d}.array_record' for index in range(count)
  ]
  return ShardJob(
    folder=path,
    work=f'.{name}',
    manifest=f'{name}.json',
    settings={
      'format': precomputed_arrays.FORMAT,
      'name': name,
      'meta': dict(computation.meta),
      'dtype': np.dtype(computation.dtype).name,
      'images': files.sha256(os.path.join(path, shards.MANIFEST)),
    },
    stored_settings=lambda: precomputed_arrays.read_manifest(path, name),
    shards=names,
    reports=[f'{file}.json' for file in names],
    fix=f'Delete {name}.json and .{name} there to store {name!r} anew.',
    peers=peers,
  )


def _spans(images: dict[str, Any]) -> list[range]:
  """Returns the examples of each shard."""
  ends = list(itertools.accumulate(s['examples'] for s in images['shards']))
  return [range(start, end) for start, end in zip([0, *ends], ends)]


@dataclasses.dataclass(frozen=True)
class ComputeArrays(ShardTask):
  """Computes and writes the arrays of shards.

  Attributes:
    folder: of the images and arrays.
    computation: what is stored.
    shards: file names of the arrays.
    spans: the examples of each.
  """

  folder: str
  computation: Computation
  shards: Sequence[str]
  spans: Sequence[range]

  def write(self, index: int) -> Report:
    (report,) = self.write_all([index])
    return report

  def write_all(self, indices: Sequence[int]) -> Iterator[Report]:
    """Writes the shards in turn; batches reach across their borders."""
    count = sum(len(self.spans[index]) for index in indices)
    progress = Progress(f'Computed {self.computation.name} of', count)
    arrays = _report(
      _check(self._compute(self._load(indices)), self.computation), progress
    )
    for index in indices:
      path = os.path.join(self.folder, self.shards[index])
      shapes, before = set(), self.computation.cut()
      with write_records(path) as writer:
        for array in itertools.islice(arrays, len(self.spans[index])):
          writer.write(precomputed_arrays.pack(array))
          shapes.add(array.shape)
      yield writer.entry | {
        'examples': len(self.spans[index]),
        'shapes': sorted(shapes)[:2],  # two are enough to see that they differ
        'cut': self.computation.cut() - before,
      }

  def _load(self, indices: Sequence[int]) -> Iterable[list[Any]]:
    """Returns the loaded examples in order, in batches, read ahead."""
    examples = [i for index in indices for i in self.spans[index]]
    source = shards.open_part(self.folder, indices)
    load, batch_size = self.computation.load, self.computation.batch_size
    threads = self.computation.num_threads or usable_cores()
    return (
      grain.MapDataset.source(examples)
      .map(lambda index: load(source[index]))
      .to_iter_dataset(grain.ReadOptions(threads, 2 * batch_size))
      .batch(batch_size, drop_remainder=False, batch_fn=list)
    )

  def _compute(self, batches: Iterable[list[Any]]) -> Iterator[np.ndarray]:
    """Yields the array of each example, one batch late (see `Computation`)."""
    batch_size = self.computation.batch_size
    last: tuple[Array | Sequence[np.ndarray], int] = (), 0
    for batch in itertools.chain(batches, [[]]):
      results: Array | Sequence[np.ndarray] = ()
      if batch:
        fill = [batch[-1]] * (batch_size - len(batch))
        results = self.computation.compute(batch + fill)
        if len(results) != batch_size:
          raise UserError(
            f'{self.computation.name}: {len(results)} arrays for {batch_size} '
            'examples'
          )
      before, count = last
      # One transfer where the batch is one array.
      ready = np.asarray(before) if hasattr(before, 'shape') else before
      yield from ready[:count]
      last = results, len(batch)


def _check(
  arrays: Iterator[np.ndarray], computation: Computation
) -> Iterator[np.ndarray]:
  """Yields the arrays in their type, and refuses what is not finite."""
  dtype = np.dtype(computation.dtype)
  for array in arrays:
    array = np.asarray(array).astype(dtype)
    if not np.isfinite(array).all():
      raise UserError(f'{computation.name}: not finite in {dtype}')
    yield array


def _report(
  arrays: Iterator[np.ndarray], progress: Progress
) -> Iterator[np.ndarray]:
  for done, array in enumerate(arrays, 1):
    progress(done)
    yield array


def _make_manifest(
  job: ShardJob, computation: Computation, reports: Sequence[Report]
) -> dict[str, Any]:
  """Returns the manifest; writes the constants."""
  shapes = {tuple(shape) for report in reports for shape in report['shapes']}
  constants = []
  for name, array in sorted(computation.constants.items()):
    path = os.path.join(job.folder, f'{computation.name}.{name}')
    array = np.asarray(array).astype(np.dtype(computation.dtype))
    files.write_bytes(path, precomputed_arrays.pack(array))
    constants.append({'name': name, **files.entry_of(path)})
  entries = [
    {key: report[key] for key in ('file', 'bytes', 'sha256', 'examples')}
    for report in reports
  ]
  return {
    **job.settings,
    'examples': sum(entry['examples'] for entry in entries),
    'shape': shapes.pop() if len(shapes) == 1 else None,
    'files': entries,
    'constants': constants,
  }
