"""When the loss on images that are not trained on no longer falls."""

import math
from collections.abc import Mapping

from pixeldit_jax.metrics.table import HELD_OUT_LOSS


def step_of_lowest_loss(
  numbers: Mapping[int, Mapping[str, float]], patience: int
) -> int | None:
  """The step of the lowest loss, once `patience` others came after it.

  Args:
    numbers: what evaluations found, by step; those without a loss do not
      count.
    patience: so many in a row are not below the lowest; 0 is never.

  Returns:
    None while it may still fall.
  """
  losses = {
    step: found[HELD_OUT_LOSS]
    for step, found in sorted(numbers.items())
    if math.isfinite(found.get(HELD_OUT_LOSS, math.nan))
  }
  if not patience or not losses:
    return None
  lowest = min(losses, key=lambda step: losses[step])
  later = sum(step > lowest for step in losses)
  return lowest if later >= patience else None
