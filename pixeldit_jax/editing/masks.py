"""Which part of a picture may change: from a file, a box or a colour."""

import os
import re

import numpy as np
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images.image_files import open_image
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import Bool, UInt8

TOLERANCE = 40  # grey levels between a pixel and the colour of a mask
_FORMS = (
  'a file (white is new), box:LEFT,TOP,RIGHT,BOTTOM in pixels or as shares of '
  'the picture (box:0.5,0,1,1), or colour:RED,GREEN,BLUE[,TOLERANCE]; not: '
  'before any of them turns it round'
)


def read_mask(
  text: str, image: UInt8[np.ndarray, 'H W 3'], grow: int = 0
) -> Bool[np.ndarray, 'H W']:
  """The mask that a description gives for a picture; True may change.

  Args:
    text: a file, 'box:0,0,14,28', 'colour:255,0,0,40', or 'not:' and one of
      these. A colour marks the pixels of which no channel is further from it
      than the tolerance.
    image: the picture. A file of another size is scaled to it.
    grow: pixels that the mask is made wider by, on all sides.

  Raises:
    MissingFileError: there is no such file.
    UserError: another form, or a mask of nothing.
  """
  kind, _, rest = text.partition(':')
  if kind == 'not':
    mask = ~read_mask(rest, image)
  elif kind == 'box':
    mask = _box(text, rest, image.shape[0], image.shape[1])
  elif kind in ('colour', 'color'):
    mask = _colour(text, rest, image)
  else:
    mask = _file(text, image.shape[0], image.shape[1])
  mask = grown(mask, grow)
  if not mask.any():
    raise UserError(f'mask {text!r} marks no pixel of a picture: give another.')
  return mask


def grown(
  mask: Bool[np.ndarray, 'H W'], pixels: int
) -> Bool[np.ndarray, 'H W']:
  """The mask with all that lies within a square of so many pixels around."""
  H, W = mask.shape
  padded = np.pad(mask, pixels)
  result = np.zeros_like(mask)
  for row in range(2 * pixels + 1):
    for column in range(2 * pixels + 1):
      result |= padded[row : row + H, column : column + W]
  return result


def _numbers(text: str, rest: str, counts: tuple[int, ...]) -> list[float]:
  parts = rest.split(',')
  good = all(re.fullmatch(r'\s*\d+(\.\d+)?\s*', part) for part in parts)
  if len(parts) not in counts or not good:
    raise UserError(f'mask {text!r}: expected {_FORMS}.')
  return [float(part) for part in parts]


def _box(text: str, rest: str, H: int, W: int) -> Bool[np.ndarray, 'H W']:
  box = np.array(_numbers(text, rest, (4,)))
  if '.' in rest:
    box *= [W, H, W, H]
  left, top, right, bottom = np.rint(box).astype(int)
  if not (left < right <= W and top < bottom <= H):
    raise UserError(
      f'mask {text!r}: left before right and top above bottom, inside {W} x '
      f'{H} pixels.'
    )
  mask = np.zeros((H, W), bool)
  mask[top:bottom, left:right] = True
  return mask


def _colour(
  text: str, rest: str, image: UInt8[np.ndarray, 'H W 3']
) -> Bool[np.ndarray, 'H W']:
  *colour, tolerance = [*_numbers(text, rest, (3, 4)), TOLERANCE][:4]
  distance = np.abs(image.astype(int) - colour).max(axis=2)
  return distance <= tolerance


def _file(text: str, H: int, W: int) -> Bool[np.ndarray, 'H W']:
  path = downloads.here(text)
  if not os.path.isfile(path):
    raise MissingFileError(f'mask {text!r} is no file: give {_FORMS}.')
  try:
    grey = open_image(files.read_limited(path)).convert('L')
    grey = grey.resize((W, H), Image.Resampling.NEAREST)
  except (OSError, SyntaxError, ValueError) as error:
    raise UserError(f'mask {text} is no image ({error}).') from error
  return np.asarray(grey) >= 128
