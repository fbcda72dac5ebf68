"""The endless stream of batches, in an order that only the seed decides.

Every epoch is one global shuffle of the source. Global batch k holds the
examples k * batch_size onwards of the stream of shuffled epochs, and a process
takes the rows of each batch that its devices need. All of it is random access:
the order depends on no process, thread, worker or restart.
"""

import os
import threading
import time
from collections.abc import Sequence

import grain
from absl import flags

from pixeldit_jax.data.pipeline.aspect_ratio_buckets import bucket_order
from pixeldit_jax.data.pipeline.iterator import BatchIterator, Finish, Stream
from pixeldit_jax.data.pipeline.load_example import (
  ExampleLoader,
  Loaded,
  Pick,
  stack,
)
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.order import Order, square_order
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

_ENDLESS = 2**48  # more than any run reads; grain adds to the largest int
_PIECE = 8  # examples that a thread loads in one go


def make_batches(
  source: Source,
  options: LoaderOptions,
  *,
  rows: Sequence[int] | None = None,
  pick: Pick | None = None,
  finish: Finish | None = None,
) -> BatchIterator:
  """Returns the endless iterator over batches.

  With b rows, a batch is a dict of numpy arrays: 'image' uint8 [b H W 3],
  'label' int32 [b], 'id' int32 [b] (the index in the source); of a source with
  captions, 'caption', a list of b str (the first of each image, '' where it has
  none); and of one with precomputed arrays each of them, stacked [b, ...]. With
  latents among these, they are 'image'.

  Args:
    source: examples by index.
    options: order, size and speed of the batches.
    rows: of each global batch, those that this process takes; all by default.
      On a pod, devices that are neighbours in the mesh belong to different
      processes, and processes may share rows.
    pick: entries to add to those above or to replace them, for instance one of
      several captions. Arrays and numbers are stacked, other values listed.
      Its random numbers depend on the seed and the position in the stream.
    finish: what becomes of each batch as it is taken, in this process.

  Raises:
    UserError: for options that this source cannot meet, before it is read.
  """
  if not len(source):
    raise UserError('the data source holds no example')
  if rows is None:
    rows = range(options.batch_size)
  make_order = bucket_order if options.buckets else square_order
  load = ExampleLoader(source, options, pick)

  def stream_of(version: int) -> Stream:
    order = make_order(source, options, version)
    return Stream(_Builder(load, order, options, rows), order.identity)

  return BatchIterator(stream_of, options.batch_size, finish)


class _Builder:
  """Builds grain's pipeline from any position of the stream on."""

  def __init__(
    self,
    load: ExampleLoader,
    order: Order,
    options: LoaderOptions,
    rows: Sequence[int],
  ):
    self._load, self._order, self._options = load, order, options
    self._rows = [int(row) for row in rows]
    # Threads hand over several examples at once: one by one, that would cost a
    # tenth of the time of decoding. But all threads work on one batch.
    self._piece = max(1, min(_PIECE, len(rows) // options.threads))
    self._parts = -(-len(rows) // self._piece)

  def __call__(self, start: int) -> grain.IterDataset:
    """Returns the batches from position `start` on, each a `Loaded`."""
    options = self._options
    pieces = grain.MapDataset.range(_ENDLESS).map(
      lambda index: self._load_piece(start, index)
    )
    if options.num_workers:
      if not flags.FLAGS.is_parsed():  # grain reads a flag of its own there
        flags.FLAGS.mark_as_parsed()
      # A worker takes every n-th batch, so it must see complete batches.
      batches = pieces.batch(self._parts, batch_fn=_join).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
      )
      return batches.mp_prefetch(
        grain.MultiprocessingOptions(options.num_workers, options.prefetch),
        worker_init_fn=_end_with_parent,
      )
    ahead = max(2 * options.threads, self._parts)
    batches = pieces.to_iter_dataset(
      grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=ahead)
    ).batch(self._parts, batch_fn=_join)
    return grain.experimental.ThreadPrefetchIterDataset(
      batches, prefetch_buffer_size=options.prefetch
    )

  def _load_piece(self, start: int, index: int) -> list[Loaded]:
    """Loads a piece of a batch, counted in pieces from `start`."""
    batch, part = divmod(index, self._parts)
    first = start + batch * self._options.batch_size
    rows = self._rows[part * self._piece : (part + 1) * self._piece]
    return [
      self._load(first + row, *self._order.slot_at(first + row)) for row in rows
    ]


def _join(pieces: list[list[Loaded]]) -> Loaded:
  return stack([example for piece in pieces for example in piece])


def _end_with_parent(index: int, count: int) -> None:
  """In a worker: ends it a second after the run was killed.

  Else it would wait for ever to hand over a batch, and hold shared memory.
  """
  del index, count
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
