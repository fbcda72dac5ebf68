"""How batches are made of a source."""

import dataclasses
import os
from typing import Self

from ml_collections import ConfigDict

from pixeldit_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderOptions:
  """How batches are made of a source.

  Attributes:
    batch_size: examples of one step over all processes.
    seed: decides the order; 0 <= seed < 2**32.
    resolution: side of the images in pixels; of bucketed data, that of their
      family of shapes.
    crop: the smallest side of what is cut out at random, as a share of the
      largest cut that fits; 1 is that in the middle.
    buckets: batches of one aspect ratio each, of data prepared in buckets.
    shuffle: a new order for each epoch, else that of the source; buckets are
      always shuffled.
    num_threads: decoding threads of this process; 0 means one per core. More
      than cores help only where reading waits for a network.
    num_workers: decoding processes, of one thread each, instead of threads.
      Threads are enough for few cores, as decoding releases Python's lock most
      of the time; with many cores, processes scale further.
    prefetch: batches made ahead, by each worker if there are workers.

  Raises:
    UserError: a value out of its range.
  """

  batch_size: int
  seed: int
  resolution: int
  crop: float = 1.0
  buckets: bool = False
  shuffle: bool = True
  num_threads: int = 0
  num_workers: int = 0
  prefetch: int = 2

  def __post_init__(self):
    if self.resolution < 1:
      raise UserError(
        f'resolution must be 1 or more pixels, got {self.resolution}'
      )
    if self.batch_size < 1:
      raise UserError(f'batch_size must be 1 or more, got {self.batch_size}')
    if not 0 <= self.seed < 2**32:
      raise UserError(f'seed must be in 0..2**32-1, got {self.seed}')
    if not 0 < self.crop <= 1:
      raise UserError(f'crop must be in (0, 1], got {self.crop}')
    if min(self.num_threads, self.num_workers) < 0 or self.prefetch < 1:
      raise UserError(
        'num_threads and num_workers must be 0 or more and prefetch 1 or more, '
        f'got {self.num_threads}, {self.num_workers} and {self.prefetch}'
      )

  @classmethod
  def from_config(cls, config: ConfigDict) -> Self:
    """Returns the options in the `data` of a run, with its seed."""
    data = config.data
    return cls(
      batch_size=data.batch_size,
      seed=config.seed,
      resolution=data.resolution,
      crop=data.get('crop', 1.0),
      buckets=data.buckets,
      num_threads=data.num_threads,
      num_workers=data.num_workers,
      prefetch=data.prefetch,
    )

  @property
  def threads(self) -> int:
    """The decoding threads of this process: at least one."""
    return self.num_threads or usable_cores()


def usable_cores() -> int:
  """Returns the cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):  # a container may have a share only
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
