"""Gaussians of features and their Frechet distance: FID, sFID.

FID (arXiv 1706.08500) takes pooled Inception features, sFID (arXiv 2103.03841)
the spatial ones:
  d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)).
All in float64 on the host.
"""

import dataclasses

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Float


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Mean [D] and unbiased covariance [D, D] of `count` feature vectors.

  Published statistics files do not say how many images they are of: count is
  None then.
  """

  mean: Float[np.ndarray, 'D']
  covariance: Float[np.ndarray, 'D D']
  count: int | None = None

  @property
  def width(self) -> int:
    return len(self.mean)


class Moments:
  """Streaming mean and covariance: one pass, any batches.

  Chan, Golub and LeVeque (1979): each batch adds its scatter about its own mean
  and a rank-one term for the distance between the means, so nothing cancels.
  """

  def __init__(self, width: int):
    self.count = 0
    self.mean = np.zeros(width)
    self.scatter = np.zeros((width, width))

  def update(self, features: Float[np.ndarray, 'B D']):
    """Adds a batch.

    Raises:
      UserError: features of another width, or values that are not finite.
    """
    if features.ndim != 2 or features.shape[1] != len(self.mean):
      raise UserError(
        f'Features have shape {features.shape}, expected [B, {len(self.mean)}].'
      )
    if not np.isfinite(features).all():
      first = self.count + int(np.argmin(np.isfinite(features).all(axis=1)))
      raise UserError(f'The features of image {first} are not finite.')
    if not len(features):
      return
    features = features.astype(np.float64)
    count, mean = len(features), features.mean(axis=0)
    centred = features - mean
    total = self.count + count
    gap = mean - self.mean
    self.scatter += centred.T @ centred
    self.scatter += np.outer(gap, gap * (self.count * count / total))
    self.mean += gap * (count / total)
    self.count = total

  def gaussian(self) -> Gaussian:
    """The mean and covariance of all vectors so far.

    Raises:
      UserError: there are fewer than two.
    """
    if self.count < 2:
      raise UserError(
        f'A covariance needs at least 2 images; there are {self.count}.'
      )
    return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)


@dataclasses.dataclass(frozen=True)
class FrechetDistance:
  """The squared distance, and the ranks of the covariances behind it.

  Attributes:
    value: d^2, what papers call FID.
    ranks: numerical ranks of the two covariances; below `width`, the distance
      is that of degenerate Gaussians and larger than with more samples.
    width: dimension of the features.
  """

  value: float
  ranks: tuple[int, int]
  width: int


def frechet_distance(a: Gaussian, b: Gaussian) -> FrechetDistance:
  """Frechet distance between two Gaussians.

  With S = A A^T the trace of the root is the sum of the singular values of
  A^T B: symmetric eigenvalues and singular values only, never the root of a
  product that is not symmetric, whose rounding can turn complex.

  Raises:
    UserError: features of different widths, or no covariances.
  """
  if a.width != b.width:
    raise UserError(
      f'Features of width {a.width} and {b.width} cannot be compared: they '
      'come from different networks or layers.'
    )
  factor_a, factor_b = _factor(a.covariance), _factor(b.covariance)
  overlap = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
  gap = a.mean.astype(np.float64) - b.mean.astype(np.float64)
  traces = np.square(factor_a).sum() + np.square(factor_b).sum()
  value = gap @ gap + traces - 2 * overlap
  ranks = factor_a.shape[1], factor_b.shape[1]
  # Equal Gaussians give zero up to rounding, of either sign.
  return FrechetDistance(max(float(value), 0.0), ranks, a.width)


def _factor(covariance: Float[np.ndarray, 'D D']) -> np.ndarray:
  """A [D, rank] with A A^T = covariance, without directions of no variance."""
  values, vectors = np.linalg.eigh(covariance.astype(np.float64))
  largest = max(values[-1], 0.0)
  # Statistics stored in fp32 have eigenvalues of rounding down to -1e-6.
  if values[0] < -1e-4 * largest or not np.isfinite(values).all():
    raise UserError(
      f'Not a covariance: its eigenvalues go from {values[0]:.3g} to '
      f'{values[-1]:.3g}, none may be negative.'
    )
  kept = values > largest * len(values) * np.finfo(np.float64).eps
  return vectors[:, kept] * np.sqrt(values[kept])
