"""Aspect-ratio buckets: batches of one shape each, mixed in a fixed order.

A family has about size**2 pixels in every bucket, with both sides multiples of
about size / 16 and of the network's patch, and ratios from 1:4 to 4:1, as in
SDXL (arXiv 2307.01952, appendix I).
"""

import dataclasses
import logging
import math
from collections.abc import Sequence

import grain
import numpy as np

from pixeldit_jax.data.pipeline import shuffle
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.order import Order, Slot, with_version
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Float, Int

log = logging.getLogger(__name__)


def family(size: int, patch_size: int = 16) -> tuple[tuple[int, int], ...]:
  """Returns (height, width) of each bucket, from wide to tall.

  Args:
    size: side of the square among them, or about that: the nearest multiple of
      the patch is taken.
    patch_size: of the network.

  Raises:
    UserError: the square has less than 2 x 2 patches.
  """
  if patch_size < 1 or size < 2 * patch_size:
    raise UserError(
      f'aspect-ratio buckets of size {size} and patches of {patch_size}: the '
      'size must be 2 patches or more'
    )
  # At 512 and 1024, with patches of 16, it is size / 16 exactly.
  step = patch_size * max(1, size // 16 // patch_size)
  side = step * round(size / step)
  wide = [
    (short, step * round(side * side / short / step))
    for short in range(-(-side // 2 // step) * step, side + 1, step)
  ]
  return tuple(wide + [(width, height) for height, width in wide[-2::-1]])


def nearest(
  height: int, width: int, buckets: tuple[tuple[int, int], ...]
) -> int:
  """Returns the bucket of the closest ratio, on a logarithmic scale."""
  return int(nearest_of(np.array([log_ratio(height, width)]), buckets)[0])


def nearest_of(
  log_ratios: Float[np.ndarray, 'N'], buckets: Sequence[tuple[int, int]]
) -> Int[np.ndarray, 'N']:
  """The same for many pictures, by their `log_ratio`."""
  of_buckets = np.array([log_ratio(*bucket) for bucket in buckets])
  return np.abs(of_buckets - log_ratios[:, None]).argmin(1)


def log_ratio(height: int, width: int) -> float:
  """The logarithm of width over height, in float64."""
  return math.log(width / height)


def bucket_order(
  source: Source, options: LoaderOptions, order: int = shuffle.FEISTEL
) -> Order:
  """Batches of one bucket each, in an order that every process knows.

  Every bucket is shuffled for itself and gets batches in proportion to its
  examples.

  Args:
    source: the examples.
    options: how batches are made.
    order: see `shuffle.Epochs`.

  Raises:
    UserError: the source has no buckets.
  """
  bucket_of = source.bucket_of_examples()
  batch_size, seed = options.batch_size, options.seed
  used = [k for k in range(len(source.buckets)) if (bucket_of == k).any()]
  members = {k: np.flatnonzero(bucket_of == k) for k in used}
  small = [source.buckets[k] for k in used if len(members[k]) < batch_size]
  if small:
    log.warning(
      'buckets with less than a batch of examples repeat them within it: %s',
      small,
    )
  # Random access to (bucket, number of its batch): grain's mix of counters.
  turns = grain.MapDataset.mix(
    [
      grain.MapDataset.range(2**40).map(lambda turn, k=k: (k, turn))
      for k in used
    ],
    weights=[len(members[k]) for k in used],
  )
  shuffled = {
    k: shuffle.Epochs(len(members[k]), seed, part=k, order=order) for k in used
  }

  identity = {
    'examples': len(source),
    'seed': seed,
    'buckets': len(used),
    'batch_size': batch_size,
  }
  slots = _BucketSlots(batch_size, turns, members, shuffled, source.buckets)
  return Order(slots, with_version(identity, order))


@dataclasses.dataclass(frozen=True)
class _BucketSlots:
  """The example at a position of the order; a class, for workers pickle it."""

  batch_size: int
  turns: grain.MapDataset
  members: dict[int, np.ndarray]
  shuffled: dict[int, shuffle.Epochs]
  buckets: Sequence[tuple[int, int]]

  def __call__(self, position: int) -> Slot:
    batch, offset = divmod(position, self.batch_size)
    k, turn = self.turns[batch]
    index = self.shuffled[k](turn * self.batch_size + offset)
    return Slot(int(self.members[k][index]), self.buckets[k])
