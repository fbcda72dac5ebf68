"""A grid of images with their titles, for people to look at."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixeldit_jax.typing import UInt8

_LINE = 14  # pixels of height for a title
_GAP = 4


def draw(
  images: Iterable[UInt8[np.ndarray, 'H W 3']],
  titles: Sequence[str],
  columns: int = 8,
  cell: int = 160,
  lines: int = 1,
) -> Image.Image:
  """Draws images of any shape, row by row, each above its title.

  Args:
    images: uint8 [H W 3] each, at least one.
    titles: one per image; what does not fit its lines is cut.
    columns: images per row.
    cell: longest side of a drawn image, in pixels; larger ones are reduced,
      smaller ones enlarged by a whole factor with every pixel in sight. Less
      where that leaves all of them smaller.
    lines: of a title, which is broken between words.
  """
  drawn = [_fit(Image.fromarray(pixels), cell) for pixels in images]
  cell = max(max(image.size) for image in drawn)
  columns = min(columns, len(drawn))
  rows = -(-len(drawn) // columns)
  pitch, below = cell + _GAP, lines * _LINE
  sheet = Image.new(
    'RGB',
    (columns * pitch + _GAP, rows * (pitch + below) + _GAP),
    (255, 255, 255),
  )
  pen = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(11)
  for i, (image, title) in enumerate(zip(drawn, titles)):
    left = _GAP + i % columns * pitch
    top = _GAP + i // columns * (pitch + below)
    sheet.paste(
      image, (left + (cell - image.width) // 2, top + cell - image.height)
    )
    for k, line in enumerate(_break(title, cell, font)[:lines]):
      pen.text((left, top + cell + k * _LINE), line, (0, 0, 0), font)
  return sheet


def _break(
  title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
  """Breaks a title into lines; a word that is too long is cut."""
  lines = ['']
  for word in title.split():
    longer = f'{lines[-1]} {word}'.strip()
    if font.getlength(longer) > width and lines[-1]:
      lines.append(word)
    else:
      lines[-1] = longer
    while font.getlength(lines[-1]) > width:
      lines[-1] = lines[-1][:-1]
  return lines


def _fit(image: Image.Image, cell: int) -> Image.Image:
  """Scales an image to a longest side of at most `cell` pixels."""
  longest = max(image.size)
  if longest > cell:
    image.thumbnail((cell, cell))
    return image
  factor = cell // longest
  return image.resize(
    (image.width * factor, image.height * factor), Image.Resampling.NEAREST
  )
