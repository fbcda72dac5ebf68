"""A queue of drawings, one at a time, that can be watched and cancelled."""

import collections
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

MOST_WAITING = 16
_KEPT = 64  # jobs that can still be asked for


class Cancelled(Exception):
  """The job was cancelled while it ran."""


@dataclasses.dataclass
class Job:
  """One drawing.

  Attributes:
    number: of the job.
    work: makes the images; calls `progress` on the way.
    command: the command line that makes the same.
    state: 'queued', 'running', 'done', 'failed' or 'cancelled'.
    step: that the images are of.
    steps: in all.
    images: the newest.
    error: what went wrong, for people.
    finished: images of the batches before.
  """

  number: int
  work: Callable[['Job'], UInt8[np.ndarray, 'N H W C']]
  command: str
  state: str = 'queued'
  step: int = 0
  steps: int = 0
  images: Any = ()
  error: str = ''
  finished: list[Any] = dataclasses.field(default_factory=list)
  stop: threading.Event = dataclasses.field(default_factory=threading.Event)

  def progress(self, step: Any) -> None:
    """Shows a `Step`.

    Raises:
      Cancelled: somebody asked for it.
    """
    if self.stop.is_set():
      raise Cancelled
    images = [*self.finished, *step.images]
    self.step, self.steps, self.images = step.number, step.steps, images
    if step.number == step.steps:
      self.finished = images


class JobQueue:
  """Runs jobs in their order, in a thread of its own."""

  def __init__(self):
    self._waiting: queue.Queue[Job | None] = queue.Queue()
    self._jobs: collections.OrderedDict[int, Job] = collections.OrderedDict()
    self._lock, self._count = threading.Lock(), 0
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def submit(self, work: Callable[[Job], Any], command: str) -> Job:
    """Adds a job.

    Raises:
      UserError: too many wait already.
    """
    with self._lock:
      waiting = sum(job.state == 'queued' for job in self._jobs.values())
      if waiting >= MOST_WAITING:
        raise UserError(f'{waiting} jobs wait already: cancel one, or wait.')
      self._count += 1
      job = self._jobs[self._count] = Job(self._count, work, command)
      while len(self._jobs) > _KEPT:
        self._jobs.popitem(last=False)
    self._waiting.put(job)
    return job

  def get(self, number: int) -> Job:
    """A job by its number.

    Raises:
      UserError: there is none, or none any more.
    """
    with self._lock:
      if number not in self._jobs:
        raise UserError(f'there is no job {number}.')
      return self._jobs[number]

  def cancel(self, number: int) -> None:
    """Stops a job after the step that it is at, or before it begins."""
    job = self.get(number)
    with self._lock:
      job.stop.set()
      if job.state == 'queued':
        job.state = 'cancelled'

  def close(self) -> None:
    """Ends the thread, after the job that runs."""
    self._waiting.put(None)
    self._thread.join()

  def _run(self) -> None:
    while (job := self._waiting.get()) is not None:
      with self._lock:
        if job.state == 'cancelled':
          continue
        job.state = 'running'
      try:
        images = job.work(job)
      except Cancelled:
        job.state = 'cancelled'
      except UserError as error:
        job.error, job.state = str(error), 'failed'
      except Exception:
        log.exception('Job %d failed.', job.number)
        job.error = 'An error in the program; its log tells more.'
        job.state = 'failed'
      else:
        job.images, job.state = images, 'done'
