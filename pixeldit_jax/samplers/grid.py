"""The times at which a solver stops on the way from noise to data."""

import numpy as np

from pixeldit_jax.flow.time import shift_time


def time_grid(steps: int, shift: float = 1.0) -> np.ndarray:
  """steps + 1 times from 0 (noise) to 1 (data), shifted, float32.

  Raises:
    ValueError: fewer than one step, or a shift that is not positive.
  """
  if steps < 1:
    raise ValueError(f'sampler.steps={steps}: at least 1.')
  if not shift > 0:
    raise ValueError(f'sampler.shift={shift}: must be positive; 1 is none.')
  return shift_time(np.linspace(0, 1, steps + 1), shift).astype(np.float32)
