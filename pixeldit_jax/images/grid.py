"""Draws images as a grid and writes pictures."""

import os
import pathlib

import numpy as np
from PIL import Image

from pixeldit_jax.typing import UInt8

SMALL = 96  # images below this side are enlarged to be looked at


def image_grid(
  images: UInt8[np.ndarray, 'B H W C'], columns: int
) -> UInt8[np.ndarray, 'height width 3']:
  """Images row by row, with thin white lines between them.

  Small images are enlarged by a whole factor. The last row may be short.
  """
  B, H, W, C = images.shape
  zoom = max(1, SMALL // max(H, W))
  images = images.repeat(zoom, 1).repeat(zoom, 2)
  rows, gap = -(-B // columns), 2
  height, width = H * zoom + gap, W * zoom + gap
  grid = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
  for i, image in enumerate(images):
    top, left = gap + i // columns * height, gap + i % columns * width
    grid[top : top + H * zoom, left : left + W * zoom] = image
  return grid


def write_png(path: str | os.PathLike, image: UInt8[np.ndarray, 'H W C']):
  """Writes beside and renames, so that a picture is whole or not there."""
  path = pathlib.Path(path)
  beside = path.with_name(path.name + '.tmp')
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(pixels).save(beside, format='png')
  os.replace(beside, path)
