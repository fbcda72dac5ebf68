"""Aspect-ratio buckets: batches of one shape each, mixed in a fixed order.

A family has about size**2 pixels in every bucket, with both sides multiples of
size / 16 (at 512 and 1024 so of the 16-pixel patch) and ratios from 1:4 to 4:1,
as in SDXL (arXiv 2307.01952, appendix I).
"""

import logging
import math

import grain
import numpy as np

from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.order import Order, Slot
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

log = logging.getLogger(__name__)


def family(size: int) -> tuple[tuple[int, int], ...]:
  """Returns (height, width) of each bucket, from wide to tall.

  Raises:
    UserError: for a size that is no multiple of 16.
  """
  if size < 32 or size % 16:
    raise UserError(
      f'aspect-ratio buckets need a size that is a multiple of 16, got {size}: '
      'use 512 or 1024'
    )
  step = size // 16
  wide = [
    (short, step * round(size * size / short / step))
    for short in range(size // 2, size + 1, step)
  ]
  return tuple(wide + [(width, height) for height, width in wide[-2::-1]])


def nearest(
  height: int, width: int, buckets: tuple[tuple[int, int], ...]
) -> int:
  """Returns the bucket of the closest ratio, on a logarithmic scale."""
  ratio = math.log(width / height)
  away = [abs(math.log(w / h) - ratio) for h, w in buckets]
  return away.index(min(away))


def bucket_order(source: Source, options: LoaderOptions) -> Order:
  """Batches of one bucket each, in an order that every process knows.

  Every bucket is shuffled for itself and gets batches in proportion to its
  examples.

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
    k: grain.MapDataset.range(len(members[k]))
    .seed((seed + k) % 2**32)
    .shuffle()
    .repeat()
    for k in used
  }

  def slot_at(position: int) -> Slot:
    batch, offset = divmod(position, batch_size)
    k, turn = turns[batch]
    index = members[k][shuffled[k][turn * batch_size + offset]]
    return Slot(int(index), source.buckets[k])

  identity = {
    'examples': len(source),
    'seed': seed,
    'buckets': len(used),
    'batch_size': batch_size,
  }
  return Order(slot_at, identity)
