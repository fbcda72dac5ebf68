"""KID: unbiased squared MMD of pooled features, arXiv 1801.01401.

The kernel is (x.y / D + 1)^3; the estimate is the mean over random subsets.
"""

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Float


def kernel_distance(
  samples: Float[np.ndarray, 'I D'],
  reference: Float[np.ndarray, 'J D'],
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> tuple[float, float]:
  """Mean and standard deviation over the subsets.

  Subsets are drawn as torch-fidelity draws them, so the same seed gives its
  number. Works in float64: the estimate is a small difference of large sums.

  Raises:
    UserError: fewer vectors than a subset needs, or of different widths.
  """
  if samples.shape[1] != reference.shape[1]:
    raise UserError(
      f'Features of width {samples.shape[1]} and {reference.shape[1]} cannot '
      'be compared.'
    )
  if subset_size < 2:
    raise UserError(f'subset_size={subset_size}: at least 2.')
  if min(len(samples), len(reference)) < subset_size:
    raise UserError(
      f'KID draws subsets of {subset_size:,} images; there are '
      f'{len(samples):,} samples and {len(reference):,} reference images.'
    )
  # The legacy generator is frozen by NumPy: its draws never change.
  rng = np.random.RandomState(seed)
  estimates = []
  for _ in range(subsets):
    x = samples[rng.choice(len(samples), subset_size, replace=False)]
    y = reference[rng.choice(len(reference), subset_size, replace=False)]
    estimates.append(_squared_mmd(x.astype(np.float64), y.astype(np.float64)))
  return float(np.mean(estimates)), float(np.std(estimates))


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
  n = len(x)
  within_x, within_y = _kernel(x, x), _kernel(y, y)
  within = within_x.sum() - np.trace(within_x)
  within += within_y.sum() - np.trace(within_y)
  return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  k = x @ y.T / x.shape[1] + 1
  return k * k * k  # ten times faster than k**3
