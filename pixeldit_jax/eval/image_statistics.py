"""All that the metrics need of a set of images, in one pass over it."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from pixeldit_jax.eval.features import FeatureNetwork
from pixeldit_jax.eval.inception_score import InceptionScore
from pixeldit_jax.eval.statistics import Gaussian, Moments
from pixeldit_jax.typing import Float, UInt8


@dataclasses.dataclass(frozen=True)
class ImageStatistics:
  """Statistics of one set; None where they are not known.

  Attributes:
    pooled: for FID.
    spatial: for sFID.
    features: pooled features [N, D], for KID, precision and recall; 410 MB for
      50,000 images.
    inception_score: mean and standard deviation over splits.
  """

  pooled: Gaussian
  spatial: Gaussian | None = None
  features: Float[np.ndarray, 'N D'] | None = None
  inception_score: tuple[float, float] | None = None


def collect(
  batches: Iterable[UInt8[np.ndarray, 'B H W 3']],
  network: FeatureNetwork,
  count: int,
  *,
  keep_features: bool = True,
  progress: Callable[[int], None] | None = None,
) -> ImageStatistics:
  """Runs the network over a set of images, in their order.

  Args:
    batches: the images, in batches of any size.
    network: the feature network.
    count: images that the batches must give.
    keep_features: whether to keep the pooled features.
    progress: called with the number of images done, after each step.

  Raises:
    ValueError: fewer or more images than `count`, or images that the network
      does not take.
  """
  width, spatial_width, logits_width = network.widths
  pooled = Moments(width)
  spatial = Moments(spatial_width) if spatial_width else None
  score = InceptionScore() if logits_width else None
  kept = np.empty((count, width), np.float32) if keep_features else None
  done = 0
  for features in network.extract(batches):
    start, done = done, done + len(features.pooled)
    if done > count:
      raise ValueError(f'There are more than the expected {count:,} images.')
    pooled.update(features.pooled)
    if spatial:
      spatial.update(features.spatial)
    if score:
      score.update(features.logits)
    if keep_features:
      kept[start:done] = features.pooled
    if progress:
      progress(done)
  if done != count:
    raise ValueError(f'There are {done:,} images, expected {count:,}.')
  return ImageStatistics(
    pooled.gaussian(),
    spatial.gaussian() if spatial else None,
    kept,
    score.result() if score else None,
  )
