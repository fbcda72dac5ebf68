"""The endless stream of batches, in an order that only the seed decides.

Every epoch is one global shuffle of the source. Global batch k holds the
examples k * batch_size onwards of the stream of shuffled epochs, and process p
of n takes the p-th of its n equal parts. Each part is random access, so the
order depends on no host, thread, worker or restart.
"""

import os
import sys
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from pixeldit_jax.data import transforms
from pixeldit_jax.data.sources import Source

_MAX_NEIGHBOURS = 16  # bad images in a row before the data are given up


def make_pipeline(
  source: Source,
  *,
  resolution: int,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  shuffle: bool = True,
  num_threads: int = 0,
  num_workers: int = 0,
  prefetch: int = 2,
) -> 'BatchIterator':
  """Returns the endless iterator over this process's part of each batch.

  With b = batch_size // process_count, a batch is a dict of numpy arrays:
  'image' uint8 [b H W 3], 'label' int32 [b], 'id' int32 [b] (the index in the
  source).

  Args:
    source: examples by index.
    resolution: side of the square images, in pixels.
    batch_size: examples of one step over all processes.
    seed: decides the order; 0 <= seed < 2**32.
    process_index: this process, 0 <= process_index < process_count.
    process_count: the processes that share each batch.
    shuffle: a new order each epoch, else that of the source.
    num_threads: decoding threads per process or worker; 0 means one per core.
    num_workers: decoding processes; 0 decodes in threads of this process,
      which is enough while decoding leaves Python's lock (it mostly does).
    prefetch: batches made ahead.

  Raises:
    ValueError: for values that cannot be met, before anything is read.
  """
  _check(source, resolution, batch_size, seed, process_index, process_count)
  if min(num_threads, num_workers) < 0 or prefetch < 1:
    raise ValueError(
      'num_threads and num_workers must be 0 or more and prefetch 1 or more, '
      f'got {num_threads}, {num_workers} and {prefetch}'
    )
  order = grain.MapDataset.range(len(source)).seed(seed)
  order = (order.shuffle() if shuffle else order).repeat()
  local = batch_size // process_count
  threads = num_threads or len(os.sched_getaffinity(0))

  def build(start: int) -> grain.IterDataset:
    """Returns the batches from global example `start` of the stream on."""

    def example_id(index: int) -> int:
      batch, offset = divmod(index, local)
      return order[start + batch * batch_size + process_index * local + offset]

    examples = grain.MapDataset.range(sys.maxsize).map(example_id)
    examples = examples.map(_Load(source, resolution))
    if num_workers:
      if not flags.FLAGS.is_parsed():  # grain reads a flag of its own there
        flags.FLAGS.mark_as_parsed()
      # Whole batches, so that the slice of a worker does not change them.
      batches = examples.batch(local, batch_fn=_stack).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
      )
      return batches.mp_prefetch(
        grain.MultiprocessingOptions(num_workers, prefetch)
      )
    ahead = max(2 * threads, local)
    batches = examples.to_iter_dataset(
      grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    ).batch(local, batch_fn=_stack)
    return grain.experimental.ThreadPrefetchIterDataset(
      batches, prefetch_buffer_size=prefetch
    )

  identity = {'examples': len(source), 'seed': seed, 'shuffle': shuffle}
  return BatchIterator(build, batch_size, identity)


def _check(source, resolution, batch_size, seed, process_index, process_count):
  """Raises ValueError for the values of `make_pipeline` that make no sense."""
  if not len(source):
    raise ValueError('the data source holds no example')
  if resolution < 1:
    raise ValueError(f'resolution must be 1 or more pixels, got {resolution}')
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed must be in 0..2**32-1, got {seed}')
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index must be in 0..{process_count - 1}, got {process_index}'
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'batch_size must be a positive multiple of the {process_count} '
      f'processes, got {batch_size}'
    )
  if batch_size > len(source):
    raise ValueError(
      f'batch_size {batch_size} is more than the {len(source)} examples of '
      'the source: a batch would repeat some; lower batch_size'
    )


class _Load:
  """Reads, decodes and crops one example."""

  def __init__(self, source: Source, resolution: int):
    self._source = source
    self._resolution = resolution

  def __call__(self, index: int) -> dict[str, Any]:
    """Loads example `index`, or the next whose image is sound."""
    skipped = []
    for step in range(_MAX_NEIGHBOURS):
      at = (int(index) + step) % len(self._source)
      example = self._source[at]
      try:
        image = transforms.decode(example['image'])
      except transforms.BadImage as error:
        skipped.append(f'{example["name"]}: {error}')
        continue
      pixels = transforms.center_crop(image, self._resolution)
      return {
        'image': pixels,
        'label': np.int32(example['label']),
        'id': np.int32(at),
        'skipped': skipped,
      }
    raise ValueError(
      f'{_MAX_NEIGHBOURS} bad images in a row, the data are damaged: '
      + '; '.join(skipped)
    )


def _stack(examples: list[dict[str, Any]]) -> dict[str, Any]:
  """Stacks examples; the names of skipped files stay a list."""
  batch = {
    key: np.stack([example[key] for example in examples])
    for key in ('image', 'label', 'id')
  }
  batch['skipped'] = [n for example in examples for n in example['skipped']]
  return batch


class BatchIterator(grain.DatasetIterator):
  """An iterator over batches whose state is a position in the stream.

  The state is the same on every process and holds no count of processes,
  threads or workers: save it once (as JSON, or with
  `grain.checkpoint.CheckpointSave`) and resume with any of these changed, and
  with another batch size too.

  Attributes:
    skipped: bad files met so far and replaced by their neighbour in the
      source, 'name: reason' to how often.
  """

  def __init__(self, build, batch_size: int, identity: dict[str, Any]):
    """Takes build(start), which returns the batches from example `start`."""
    super().__init__()
    self._build = build
    self._batch_size = batch_size
    self._identity = identity
    self._position = 0
    self._batches = None
    self.skipped: dict[str, int] = {}

  def __next__(self) -> dict[str, np.ndarray]:
    self._assert_not_closed()
    self.start_prefetch()
    batch = next(self._batches)
    self._position += self._batch_size
    for name in batch.pop('skipped'):
      if name not in self.skipped:
        logging.warning('skipped a bad image: %s', name)
      self.skipped[name] = self.skipped.get(name, 0) + 1
    return batch

  def get_state(self) -> dict[str, Any]:
    return {'position': self._position, **self._identity}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved position.

    Raises:
      ValueError: if the state belongs to another order of examples.
    """
    saved = {key: state.get(key) for key in self._identity}
    if saved != self._identity:
      raise ValueError(
        f'the data of the checkpoint were {saved}, but this run has '
        f'{self._identity}: the order would differ. Use the same data, seed '
        'and shuffle, or start a new run'
      )
    self._stop()
    self._position = int(state['position'])

  def start_prefetch(self) -> None:
    """Starts to read ahead, for example while the model is restored."""
    if self._batches is None:
      self._batches = iter(self._build(self._position))
      self._batches.start_prefetch()

  def close(self) -> None:
    """Ends the threads and worker processes."""
    self._closed = True
    self._stop()

  def _stop(self) -> None:
    if self._batches is not None:
      self._batches.close()
    self._batches = None
