"""An iterator over batches that resumes at any position of the stream."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import grain

from pixeldit_jax.data.pipeline import shuffle
from pixeldit_jax.settings import check_same

log = logging.getLogger(__name__)

Finish = Callable[[dict[str, Any]], dict[str, Any]]


class Stream(NamedTuple):
  """The batches in one order.

  Attributes:
    build: build(start) -> the batches from position `start` of the stream.
    identity: what the order of the stream depends on.
  """

  build: Callable[[int], grain.IterDataset]
  identity: dict[str, Any]


class BatchIterator(grain.DatasetIterator):
  """An iterator over batches whose state is a position in the stream.

  The state is the same on every process and holds no count of processes,
  threads or workers: save it once (as JSON, or with
  `grain.checkpoint.CheckpointSave`) and resume with any of these changed; with
  square images, another batch size is possible too.

  Attributes:
    skipped: bad examples met so far and replaced by others of the source,
      'name: reason' to how often.
  """

  def __init__(
    self,
    stream_of: Callable[[int], Stream],
    batch_size: int,
    finish: Finish | None = None,
  ):
    """Starts at position 0 of the stream in the newest order.

    Args:
      stream_of: the stream in an order of `shuffle`; a run that was begun in
        an older one goes on in it.
      batch_size: positions that each batch moves on.
      finish: what becomes of each batch as it is taken.
    """
    super().__init__()
    self._finish = finish
    self._batches: grain.DatasetIterator | None = None
    self._stream_of = stream_of
    self._batch_size = batch_size
    self._build, self._identity = stream_of(shuffle.FEISTEL)
    self._position = 0
    self.skipped: dict[str, int] = {}

  def __next__(self) -> dict[str, Any]:
    self._assert_not_closed()
    batch = next(self._reading())
    self._position += self._batch_size
    for name in batch.skipped:
      if name not in self.skipped:
        # Of a name with a line end only this line is shown.
        log.warning('skipped a bad example: %s', name.replace('\n', '\\n'))
      self.skipped[name] = self.skipped.get(name, 0) + 1
    return self._finish(batch.entries) if self._finish else batch.entries

  def get_state(self) -> dict[str, Any]:
    return {'position': self._position, **self._identity}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved position.

    Raises:
      UserError: the state belongs to another order of examples.
    """
    order = state.get('order', shuffle.GRAIN)
    if order in (shuffle.GRAIN, shuffle.FEISTEL):
      self._build, self._identity = self._stream_of(order)
    check_same(
      'the data of the checkpoint were read with',
      state,
      self._identity,
      'The order of the examples would differ: use the same data and settings, '
      'or start a new run.',
      keys=self._identity,
    )
    self._stop()
    self._position = int(state['position'])

  def start_prefetch(self) -> None:
    """Starts to read ahead, for example while the model is restored."""
    self._reading()

  def close(self) -> None:
    """Ends the threads and worker processes."""
    self._closed = True
    self._stop()

  def _reading(self) -> grain.DatasetIterator:
    if self._batches is None:
      self._batches = iter(self._build(self._position))
      self._batches.start_prefetch()
    return self._batches

  def _stop(self) -> None:
    if self._batches is not None:
      self._batches.close()
    self._batches = None
