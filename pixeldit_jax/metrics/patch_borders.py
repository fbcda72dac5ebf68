"""Whether samples show the grid of patches; no feature network is needed.

Neighbouring pixels of real images differ across the border of a patch as they
do inside one. Where each patch is drawn by itself, they differ more.
"""

from typing import NamedTuple, Self

import numpy as np

from pixeldit_jax.typing import Float, UInt8

_PART = 16  # images whose differences are held at a time


class PixelDifferences(NamedTuple):
  """Sums of |difference| of neighbouring pixels by where they lie.

  Attributes:
    down: between row i and i + 1, at index i.
    across: between column j and j + 1, at index j.
    images: how many they are of.
  """

  down: Float[np.ndarray, 'down']
  across: Float[np.ndarray, 'across']
  images: int = 0

  @classmethod
  def of(cls, images: UInt8[np.ndarray, 'B H W C']) -> Self:
    """Those of a batch."""
    H, W = images.shape[1:3]
    down, across = np.zeros(H - 1), np.zeros(W - 1)
    for start in range(0, len(images), _PART):
      part = images[start : start + _PART].astype(np.int16)
      down += np.abs(np.diff(part, axis=1)).sum((0, 2, 3), dtype=np.int64)
      across += np.abs(np.diff(part, axis=2)).sum((0, 1, 3), dtype=np.int64)
    return cls(down, across, len(images))

  def is_like(self, other: 'PixelDifferences') -> bool:
    """Whether both are of images of one size."""
    return len(self.down) == len(other.down) and (
      len(self.across) == len(other.across)
    )

  def plus(self, other: 'PixelDifferences') -> 'PixelDifferences':
    """Those of both sets, of images of one size."""
    return PixelDifferences(
      self.down + other.down,
      self.across + other.across,
      self.images + other.images,
    )

  def border_ratio(self, patch: int) -> float | None:
    """The mean across the borders of patches over the mean inside.

    1 where patches cannot be seen. None of images without borders or without
    any difference inside.

    Args:
      patch: side of a patch in pixels.
    """
    H, W = len(self.down) + 1, len(self.across) + 1
    # The same number of pixels lies along each difference of one direction.
    lines = np.concatenate([self.down / W, self.across / H])
    border = np.concatenate(
      [np.arange(1, side) % patch == 0 for side in (H, W)]
    )
    if not border.any() or border.all() or not lines[~border].any():
      return None
    return float(lines[border].mean() / lines[~border].mean())
