"""Stopping early: preemption and Ctrl-C, at one step in all processes.

SIGTERM, which clusters send before they take a machine, SIGHUP of a terminal
that went away, SIGUSR1 of SLURM and a first Ctrl-C let the run save and end;
evaluations hear them after each batch. A second Ctrl-C ends it at once. Before
the first step there is nothing to save, and each of them ends the run at once.
"""

import logging
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from pixeldit_jax.errors import stop_by_signal

log = logging.getLogger(__name__)

LIKE_TERMINATE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopAsked(Exception):
  """What was begun is left: the run is to save and to end."""


class StopRequest:
  """Listens while it is entered; what was there before comes back after.

  Attributes:
    nothing_to_save: a signal then ends the run at once, by `Stopped`.
  """

  def __init__(self):
    self._asked = self.nothing_to_save = False
    self._calls = 0
    self._before = {}
    # Then JAX listens for SIGTERM and agrees with the others on a step.
    self._together = jax.process_count() > 1

  def __enter__(self):
    # Python takes signals in the main thread only.
    if threading.current_thread() is threading.main_thread():
      self._listen(signal.SIGINT, self._on_interrupt)
      for number in LIKE_TERMINATE:
        # nohup has SIGHUP ignored on purpose; with others, SIGTERM is JAX's.
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if not (ignored or (self._together and number == signal.SIGTERM)):
          self._listen(number, self._on_terminate)
    return self

  def __exit__(self, *error):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def now(self) -> bool:
    """Whether to stop here; every process asks equally often."""
    if not self._together:
      return self._asked
    # Counted from the start of the process, not of the run: the agreed call is
    # one above the highest of any process, also of those not yet here.
    self._calls += 1
    return multihost_utils.reached_preemption_sync_point(self._calls)

  def check(self) -> None:
    """Raises StopAsked where `now` says so: within work that can be left."""
    if self.now():
      raise StopAsked

  def _listen(self, number, handler):
    self._before[number] = signal.signal(number, handler)

  def _on_terminate(self, number, frame):
    self._ask(frame)

  def _on_interrupt(self, number, frame):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second kills
    log.warning('Saving, then stopping. Press Ctrl-C again to stop at once.')
    self._ask(frame)

  def _ask(self, frame):
    if self._together:
      os.kill(os.getpid(), signal.SIGTERM)  # JAX informs the others
      return
    self._asked = True
    if self.nothing_to_save:
      words = (
        'stopped before the first step of this start: nothing new to save.'
      )
      stop_by_signal(words, signal.SIGTERM, frame)
