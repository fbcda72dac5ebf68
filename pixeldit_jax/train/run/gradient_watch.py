"""What is remembered of every step, to see what is out of the ordinary."""

import dataclasses
from collections import deque

import numpy as np

_MEMORY = 200  # gradient norms that the next is compared with
_ENOUGH = 20  # fewer say nothing


@dataclasses.dataclass
class Watch:
  """What is remembered of every step; saved with each checkpoint.

  Attributes:
    skipped: steps so far that were not finite.
    norms: the last finite gradient norms.
  """

  skipped: int = 0
  norms: deque = dataclasses.field(
    default_factory=lambda: deque(maxlen=_MEMORY)
  )

  def see(self, bad_steps: float, norm: float) -> float:
    """Counts a step; returns its norm over the median of those before."""
    if bad_steps:
      self.skipped += 1
      return 1.0
    enough = len(self.norms) >= _ENOUGH
    rise = norm / np.median(self.norms) if enough else 1.0
    self.norms.append(norm)
    return float(rise)

  def state(self) -> dict:
    """As JSON has it; `restore` takes it."""
    return dict(skipped=self.skipped, norms=list(self.norms))

  def restore(self, state: dict) -> None:
    self.skipped = state['skipped']
    self.norms = deque(state['norms'], maxlen=_MEMORY)
