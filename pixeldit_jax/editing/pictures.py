"""Pictures to edit: arrays, Pillow's images or files, cropped to one size."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.data.transforms import BadExample, crop, decode
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images.image_files import is_image, walk
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import UInt8


def read_pictures(
  pictures: Any, size: tuple[int, int]
) -> UInt8[np.ndarray, 'N H W 3']:
  """Pictures as an array.

  Args:
    pictures: uint8 [N, H, W, 3] or [H, W, 3], a Pillow image, a path, or a
      sequence of these.
    size: height and width; others are scaled to cover it and cut.

  Raises:
    MissingFileError: there is no such file.
    UserError: no picture, or one that cannot be read.
  """
  if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
    pictures = list(pictures)
  if not isinstance(pictures, Sequence) or isinstance(pictures, str):
    pictures = [pictures]
  if not pictures:
    raise UserError('there is no picture to edit.')
  return np.stack([_read(one, size) for one in pictures])


def find_pictures(path: str) -> list[str]:
  """The file, or the images below the folder, in the order of their names.

  Raises:
    MissingFileError: neither is there.
    UserError: a folder without images.
  """
  here = downloads.here(path)
  if os.path.isfile(here):
    return [path]
  if not os.path.isdir(here):
    raise MissingFileError(f'{path} is no file and no folder.')
  found = sorted(
    os.path.join(path, folder, name)  # as it was named: copies may move
    for folder, names in walk(here)
    for name in names
    if is_image(name)
  )
  if not found:
    raise UserError(f'{path} has no images.')
  return found


def _read(one: Any, size: tuple[int, int]) -> UInt8[np.ndarray, 'H W 3']:
  try:
    if isinstance(one, str | os.PathLike):
      path = downloads.fetch(one)
      if not path.is_file():
        raise MissingFileError(f'picture {path} is no file.')
      return crop(decode(files.read_limited(path)), *size)
    if isinstance(one, Image.Image):
      return crop(decode(one), *size)
    one = np.asarray(one)
    if one.ndim != 3 or one.dtype != np.uint8 or not one.size:
      raise UserError(
        f'a picture of shape {one.shape} and {one.dtype}: expected uint8 '
        '[H, W, 3].'
      )
    return crop(decode(one), *size)
  except BadExample as error:
    raise UserError(f'a picture cannot be read: {error}') from error
