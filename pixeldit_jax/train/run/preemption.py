"""Stopping early: preemption and Ctrl-C, at one step in all processes.

SIGTERM, which clusters send before they take a machine, and a first Ctrl-C let
the run save and end. A second Ctrl-C ends it at once.
"""

import logging
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


class StopRequest:
  """Listens while it is entered; what was there before comes back after."""

  def __init__(self):
    self._asked = False
    self._calls = 0
    self._before = {}
    # Then JAX listens for SIGTERM and agrees with the others on a step.
    self._together = jax.process_count() > 1

  def __enter__(self):
    # Python takes signals in the main thread only.
    if threading.current_thread() is threading.main_thread():
      self._listen(signal.SIGINT, self._on_interrupt)
      if not self._together:
        self._listen(signal.SIGTERM, self._on_terminate)
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

  def _listen(self, number, handler):
    self._before[number] = signal.signal(number, handler)

  def _on_terminate(self, number, frame):
    self._asked = True

  def _on_interrupt(self, number, frame):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second kills
    log.warning('Saving, then stopping. Press Ctrl-C again to stop at once.')
    if self._together:
      os.kill(os.getpid(), signal.SIGTERM)  # JAX informs the others
    else:
      self._asked = True
