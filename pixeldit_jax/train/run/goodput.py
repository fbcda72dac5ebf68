"""Where the time of a run goes, over all of its starts.

Goodput is the share of steps that still count. Steps that were repeated after a
kill, and the time of a restart until its first step, are lost.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping

PHASES = (
  'start',  # the first time: data, state, everything before the first step
  'compile',
  'data',  # waiting for the next batch
  'step',
  'checkpoint',  # the loop held; files are written while steps go on
  'evaluation',
  'lost',
)


class Goodput:
  """Seconds by phase; every moment since its making belongs to one."""

  def __init__(self):
    self._seconds = dict.fromkeys(PHASES, 0.0)
    self._phase = 'start'
    self._since = time.perf_counter()

  def start_phase(self, name: str) -> None:
    """Counts the time from now on to this phase."""
    now = time.perf_counter()
    self._seconds[self._phase] += now - self._since
    self._phase, self._since = name, now

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time of the block to this phase, then to the one before."""
    before = self._phase
    self.start_phase(name)
    try:
      yield
    finally:
      self.start_phase(before)

  def seconds(self) -> dict[str, float]:
    """Seconds of each phase so far."""
    self.start_phase(self._phase)
    return dict(self._seconds)

  def resume(
    self, saved: Mapping[str, float], last: Mapping[str, float]
  ) -> None:
    """Adds the starts before this one.

    Args:
      saved: seconds at the checkpoint that the run goes on from.
      last: those last known of the run, later than the checkpoint if the
        process was killed; the difference is lost.
    """
    now = self.seconds()
    redone = sum(last.values()) - sum(saved.values())
    self._seconds = {name: now[name] + saved.get(name, 0.0) for name in PHASES}
    self._seconds['lost'] += max(0.0, redone) + now['start']
    self._seconds['start'] -= now['start']
    self.start_phase('lost')  # a restart, until its first step

  def fractions(self) -> dict[str, float]:
    """The share of each phase: 'goodput/step' and so on."""
    seconds = self.seconds()
    total = sum(seconds.values()) or 1.0
    return {f'goodput/{name}': seconds[name] / total for name in PHASES}
