"""Draws images as a grid and writes pictures."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pixeldit_jax.files import replacing
from pixeldit_jax.typing import UInt8

SMALL = 96  # images below this side are enlarged to be looked at


@dataclasses.dataclass(frozen=True)
class Grid:
  """Cells of one size, row by row, on white.

  Attributes:
    columns: cells in a row.
    height: of a cell, in pixels.
    width: of a cell.
    gap: between cells and around them.
    below: free pixels below each cell, for a title.
  """

  columns: int
  height: int
  width: int
  gap: int
  below: int = 0

  def corner(self, index: int) -> tuple[int, int]:
    """Returns the top and left pixel of a cell."""
    row, column = divmod(index, self.columns)
    top = self.gap + row * (self.height + self.below + self.gap)
    return top, self.gap + column * (self.width + self.gap)

  def draw(
    self, images: Sequence[UInt8[np.ndarray, '_ _ _']]
  ) -> UInt8[np.ndarray, 'height width 3']:
    """Draws each image in the middle of the lower edge of its cell."""
    rows = -(-len(images) // self.columns)
    height = self.corner(rows * self.columns)[0]
    width = self.gap + self.columns * (self.width + self.gap)
    picture = np.full((height, width, 3), 255, np.uint8)
    for index, image in enumerate(images):
      top, left = self.corner(index)
      top += self.height - image.shape[0]
      left += (self.width - image.shape[1]) // 2
      picture[top : top + image.shape[0], left : left + image.shape[1]] = image
    return picture


def image_grid(
  images: UInt8[np.ndarray, 'B H W C'], columns: int
) -> UInt8[np.ndarray, 'height width 3']:
  """Draws images of one size row by row, with thin white lines between them.

  Small images are enlarged by an integer factor. The last row may be short.
  """
  _, H, W, _ = images.shape
  zoom = max(1, SMALL // max(H, W))
  images = images.repeat(zoom, 1).repeat(zoom, 2)
  return Grid(columns, H * zoom, W * zoom, gap=2).draw(list(images))


def write_png(
  path: str | os.PathLike, image: UInt8[np.ndarray, 'H W C']
) -> None:
  """Writes a picture of one or three channels; it is complete or absent."""
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  with replacing(path) as temporary:
    Image.fromarray(pixels).save(temporary, format='png')
