"""The endless stream of batches, in an order that only the seed decides.

Every epoch is one global shuffle of the source. Global batch k holds the
examples k * batch_size onwards of the stream of shuffled epochs, and process p
of n takes the p-th of its n equal parts, or the rows that it is told. All of it
is random access: the order depends on no host, thread, worker or restart.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import grain
from absl import flags

from pixeldit_jax.data.pipeline.iterator import BatchIterator
from pixeldit_jax.data.pipeline.load_example import (
  ExampleLoader,
  Loaded,
  Pick,
  stack,
)
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

_ENDLESS = 2**48  # more than any run reads; grain adds to the largest int
_PIECE = 8  # examples that a thread loads in one go
# place(position in the stream) -> (index in the source, (height, width)).
Place = Callable[[int], tuple[int, tuple[int, int]]]


def make_pipeline(
  source: Source,
  *,
  resolution: int,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  rows: Sequence[int] | None = None,
  shuffle: bool = True,
  num_threads: int = 0,
  num_workers: int = 0,
  prefetch: int = 2,
  pick: Pick | None = None,
) -> BatchIterator:
  """Returns the endless iterator over this process's part of each batch.

  With b = batch_size // process_count, a batch is a dict of numpy arrays:
  'image' uint8 [b H W 3], 'label' int32 [b], 'id' int32 [b] (the index in the
  source); of a source with captions, 'caption', a list of b str (the first of
  each image, '' where it has none); and of one with side arrays each of them,
  stacked [b, ...].

  Args:
    source: examples by index.
    resolution: side of the square images, in pixels.
    batch_size: examples of one step over all processes.
    seed: decides the order; 0 <= seed < 2**32.
    process_index: this process, 0 <= process_index < process_count.
    process_count: the processes that share each batch.
    rows: the places in a global batch that this process takes, in place of
      its equal part (b is their number): on a pod, devices that are neighbours
      in the mesh belong to different processes, and processes may share rows.
    shuffle: a new order each epoch, else that of the source.
    num_threads: decoding threads of this process; 0 means one per core. More
      than cores only pay where reading waits for a network.
    num_workers: decoding processes, of one thread each, instead of threads.
      Threads are enough for few cores, as decoding leaves Python's lock most
      of the time; with many cores, processes go further.
    prefetch: batches made ahead, by each worker if there are workers.
    pick: entries to add to those above or to replace them, for instance one of
      several captions. Arrays and numbers are stacked, other values listed.
      The generator depends on the seed and the position in the stream alone.

  Raises:
    UserError: for values that cannot be met, before anything is read.
  """
  if resolution < 1:
    raise UserError(f'resolution must be 1 or more pixels, got {resolution}')
  if batch_size > len(source) > 0:
    raise UserError(
      f'batch_size {batch_size} is more than the {len(source)} examples of '
      'the source: a batch would repeat some; lower batch_size'
    )
  check_seed(seed)
  order = grain.MapDataset.range(len(source)).seed(seed)
  order = (order.shuffle() if shuffle else order).repeat()
  shape = (resolution, resolution)
  return batches_of(
    source,
    lambda position: (order[position], shape),
    {'examples': len(source), 'seed': seed, 'shuffle': shuffle},
    batch_size=batch_size,
    process_index=process_index,
    process_count=process_count,
    rows=rows,
    num_threads=num_threads,
    num_workers=num_workers,
    prefetch=prefetch,
    pick=pick,
  )


def batches_of(
  source: Source,
  place: Place,
  identity: dict[str, Any],
  *,
  batch_size: int,
  process_index: int,
  process_count: int,
  num_threads: int,
  num_workers: int,
  prefetch: int,
  pick: Pick | None,
  rows: Sequence[int] | None = None,
) -> BatchIterator:
  """Returns the iterator over the batches of the stream that `place` orders.

  Args:
    source: examples by index.
    place: the example and shape at each position of the stream; all examples
      of one batch have the same shape.
    identity: what the order depends on; saved with the position.

  The others are those of `make_pipeline`.
  """
  _check(source, batch_size, process_index, process_count)
  if min(num_threads, num_workers) < 0 or prefetch < 1:
    raise UserError(
      'num_threads and num_workers must be 0 or more and prefetch 1 or more, '
      f'got {num_threads}, {num_workers} and {prefetch}'
    )
  if rows is None:
    equal = batch_size // process_count
    rows = range(process_index * equal, (process_index + 1) * equal)
  local = len(rows)
  threads = num_threads or usable_cores()
  load = ExampleLoader(source, identity['seed'], pick)
  # Threads hand over several examples at once: one by one, that would cost a
  # tenth of the time of decoding. But all threads work on one batch.
  piece = max(1, min(_PIECE, local // threads))
  parts = -(-local // piece)

  def build(start: int) -> grain.IterDataset:
    """Returns the batches from position `start` of the stream on."""

    def load_piece(index: int) -> list[Loaded]:
      batch, part = divmod(index, parts)
      positions = [
        start + batch * batch_size + int(row)
        for row in rows[part * piece : (part + 1) * piece]
      ]
      return [load(position, *place(position)) for position in positions]

    def join(pieces: list[list[Loaded]]) -> Loaded:
      return stack([example for piece in pieces for example in piece])

    pieces = grain.MapDataset.range(_ENDLESS).map(load_piece)
    if num_workers:
      if not flags.FLAGS.is_parsed():  # grain reads a flag of its own there
        flags.FLAGS.mark_as_parsed()
      # Whole batches, so that the slice of a worker does not change them.
      batches = pieces.batch(parts, batch_fn=join).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
      )
      return batches.mp_prefetch(
        grain.MultiprocessingOptions(num_workers, prefetch)
      )
    ahead = max(2 * threads, parts)
    batches = pieces.to_iter_dataset(
      grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    ).batch(parts, batch_fn=join)
    return grain.experimental.ThreadPrefetchIterDataset(
      batches, prefetch_buffer_size=prefetch
    )

  return BatchIterator(build, batch_size, identity)


def usable_cores() -> int:
  """Returns the cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):  # a container may have a share only
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def check_seed(seed: int):
  """Raises UserError for a seed that grain would not take."""
  if not 0 <= seed < 2**32:
    raise UserError(f'seed must be in 0..2**32-1, got {seed}')


def _check(source, batch_size, process_index, process_count):
  """Raises UserError for values that make no sense together."""
  if not len(source):
    raise UserError('the data source holds no example')
  if not 0 <= process_index < process_count:
    raise UserError(
      f'process_index must be in 0..{process_count - 1}, got {process_index}'
    )
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
      f'batch_size must be a positive multiple of the {process_count} '
      f'processes, got {batch_size}'
    )
