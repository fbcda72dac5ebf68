"""Where the time of a run goes, over all of its starts.

Goodput is the part spent in steps that still count. Steps that were done again
after a kill, and what a restart took to get going, are lost.
"""

import contextlib
import time
from collections.abc import Mapping

PARTS = (
  'start',  # the first time: data, state, everything before the first step
  'compile',
  'data',  # waiting for the next batch
  'step',
  'checkpoint',  # the loop held; writing goes on beside the steps
  'evaluation',
  'lost',
)


class Goodput:
  """Seconds by part; every moment since its making belongs to one."""

  def __init__(self):
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._part = 'start'
    self._since = time.perf_counter()

  def enter(self, part: str) -> None:
    """From now on the time is of this part."""
    now = time.perf_counter()
    self._seconds[self._part] += now - self._since
    self._part, self._since = part, now

  @contextlib.contextmanager
  def spending(self, part: str):
    """Within it the time is of this part, then of the one before."""
    before = self._part
    self.enter(part)
    try:
      yield
    finally:
      self.enter(before)

  def seconds(self) -> dict[str, float]:
    """Of each part so far."""
    self.enter(self._part)
    return dict(self._seconds)

  def resume(
    self, saved: Mapping[str, float], last: Mapping[str, float]
  ) -> None:
    """Adds the starts before this one.

    Args:
      saved: seconds at the checkpoint that the run goes on from.
      last: those last known of the run, later than the checkpoint if the
        process was killed; what lies between is lost.
    """
    now = self.seconds()
    redone = sum(last.values()) - sum(saved.values())
    self._seconds = {part: now[part] + saved.get(part, 0.0) for part in PARTS}
    self._seconds['lost'] += max(0.0, redone) + now['start']
    self._seconds['start'] -= now['start']
    self.enter('lost')  # until the first step, a restart is a loss

  def fractions(self) -> dict[str, float]:
    """Of all time, by part: 'goodput/step' and so on."""
    seconds = self.seconds()
    total = sum(seconds.values()) or 1.0
    return {f'goodput/{part}': seconds[part] / total for part in PARTS}
