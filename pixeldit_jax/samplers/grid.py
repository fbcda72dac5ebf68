"""The times at which a solver stops on the way from noise to data."""

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.time import shift_time


def time_grid(steps: int, shift: float = 1.0, start: float = 0.0) -> np.ndarray:
  """steps + 1 times from `start`, by default 0 (noise), to 1 (data), float32.

  They are even before the shift. The text-to-image release starts a little
  after the noise, at 0.001.

  Raises:
    UserError: fewer than one step, a shift that is not positive, or a start
      outside [0, 1).
  """
  if steps < 1:
    raise UserError(f'sampler.steps={steps}: at least 1.')
  if not shift > 0:
    raise UserError(f'sampler.shift={shift}: must be positive; 1 is none.')
  if not 0 <= start < 1:
    raise UserError(f'sampler.start={start}: at least 0, the noise, below 1.')
  times = shift_time(np.linspace(start, 1, steps + 1), shift)
  return np.asarray(times, np.float32)
