"""Everything that the metrics need of a set of images, in one pass over it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.frechet_distance import Gaussian, Moments
from pixeldit_jax.metrics.inception_score import InceptionScore
from pixeldit_jax.metrics.patch_borders import PixelDifferences
from pixeldit_jax.typing import Float, UInt8


@dataclasses.dataclass(frozen=True)
class ImageStatistics:
  """Statistics of one set; None where they are not known.

  Attributes:
    pooled: for FID.
    spatial: for sFID.
    features: pooled features [K, D] of all images or of some at even
      distances, for KID, precision and recall; 410 MB for 50,000 images.
    inception_score: mean and standard deviation over splits.
    differences: of neighbouring pixels, for the borders of patches.
  """

  pooled: Gaussian
  spatial: Gaussian | None = None
  features: Float[np.ndarray, 'K D'] | None = None
  inception_score: tuple[float, float] | None = None
  differences: PixelDifferences | None = None


def collect(
  batches: Iterable[UInt8[np.ndarray, '_ H W 3']],
  network: FeatureNetwork,
  count: int,
  *,
  keep: int | None = None,
  progress: Callable[[int], None] | None = None,
) -> ImageStatistics:
  """Runs the network over a set of images, in their order.

  Args:
    batches: the images, in batches of any size.
    network: the feature network.
    count: images that the batches must give.
    keep: of how many images to keep the pooled features; all by default.
    progress: called with the number of images done, after each step.

  Raises:
    UserError: fewer or more images than `count`, or images that the network
      does not take.
  """
  width, spatial_width, logits_width = network.widths
  pooled = Moments(width)
  spatial = Moments(spatial_width) if spatial_width else None
  score = InceptionScore() if logits_width else None
  # Evenly spaced: data is often sorted by class.
  keep = count if keep is None else min(keep, count)
  wanted = np.arange(keep) * count // max(1, keep)
  kept = np.empty((keep, width), np.float32)
  done, seen = 0, _Seen(batches)
  for features in network.extract(seen):
    start, done = done, done + len(features.pooled)
    if done > count:
      raise UserError(f'There are more than the expected {count:,} images.')
    pooled.update(np.asarray(features.pooled))
    if spatial and features.spatial is not None:
      spatial.update(np.asarray(features.spatial))
    if score and features.logits is not None:
      score.update(np.asarray(features.logits))
    first, last = np.searchsorted(wanted, (start, done))
    kept[first:last] = features.pooled[wanted[first:last] - start]
    if progress:
      progress(done)
  if done != count:
    raise UserError(f'There are {done:,} images, expected {count:,}.')
  return ImageStatistics(
    pooled.gaussian(),
    spatial.gaussian() if spatial else None,
    kept if keep and width else None,
    score.result() if score else None,
    seen.differences,
  )


class _Seen:
  """Batches whose `differences` are summed as they are drawn.

  Of several sizes those of the first size alone.
  """

  def __init__(self, batches: Iterable[UInt8[np.ndarray, '_ H W 3']]):
    self._batches = batches
    self.differences: PixelDifferences | None = None

  def __iter__(self) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    for images in self._batches:
      yield images  # first to the network, which refuses other shapes
      found = PixelDifferences.of(images)
      before = self.differences
      if before is None or before.is_like(found):
        self.differences = before.plus(found) if before else found
