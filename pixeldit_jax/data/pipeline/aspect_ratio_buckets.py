"""Aspect-ratio buckets: batches of one shape each, mixed in a fixed order.

A family has about size**2 pixels in every bucket, with both sides multiples of
size / 16 (at 512 and 1024 so of the 16-pixel patch) and ratios from 1:4 to 4:1,
as in SDXL (arXiv 2307.01952, appendix I).
"""

import logging
import math
from collections.abc import Sequence

import grain
import numpy as np

from pixeldit_jax.data.pipeline import batches
from pixeldit_jax.data.sources.shards import ShardSource
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


def make_bucket_pipeline(
  source: ShardSource,
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  rows: Sequence[int] | None = None,
  num_threads: int = 0,
  num_workers: int = 0,
  prefetch: int = 2,
  pick: batches.Pick | None = None,
) -> batches.BatchIterator:
  """Returns the endless iterator over batches of one bucket each.

  The arguments and batches are those of `make_pipeline`, but for 'image',
  which is uint8 [b H W 3] with the H and W of the batch's bucket. Every bucket
  is shuffled for itself and gets batches in proportion to its examples, in an
  order that every process knows.

  Raises:
    UserError: for values that cannot be met, before anything is read.
  """
  batches.check_seed(seed)
  if not source.buckets:
    raise UserError(
      'data.buckets=True: only shards of launch/prepare_data.py --buckets '
      'have aspect ratios'
    )
  bucket_of = source.bucket_of_examples()
  held = [k for k in range(len(source.buckets)) if (bucket_of == k).any()]
  members = {k: np.flatnonzero(bucket_of == k) for k in held}
  small = [source.buckets[k] for k in held if len(members[k]) < batch_size]
  if small:
    log.warning(
      'buckets with less than a batch of examples repeat them within it: %s',
      small,
    )
  # Random access to (bucket, number of its batch): grain's mix of counters.
  turns = grain.MapDataset.mix(
    [
      grain.MapDataset.range(2**40).map(lambda turn, k=k: (k, turn))
      for k in held
    ],
    weights=[len(members[k]) for k in held],
  )
  orders = {
    k: grain.MapDataset.range(len(members[k]))
    .seed((seed + k) % 2**32)
    .shuffle()
    .repeat()
    for k in held
  }

  def place(position: int) -> tuple[int, tuple[int, int]]:
    batch, offset = divmod(position, batch_size)
    k, turn = turns[batch]
    index = members[k][orders[k][turn * batch_size + offset]]
    return int(index), source.buckets[k]

  identity = {
    'examples': len(source),
    'seed': seed,
    'buckets': len(held),
    'batch_size': batch_size,
  }
  return batches.batches_of(
    source,
    place,
    identity,
    batch_size=batch_size,
    process_index=process_index,
    process_count=process_count,
    rows=rows,
    num_threads=num_threads,
    num_workers=num_workers,
    prefetch=prefetch,
    pick=pick,
  )
