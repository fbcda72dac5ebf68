"""A grid of images with their titles, for people to look at."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixeldit_jax.images.grid import Grid, image_grid
from pixeldit_jax.typing import Int, UInt8

_LINE = 14  # pixels of height for a line of a title
_GAP = 4
_NAME = 160  # pixels of the name of a class, next to its row
_ROW_GAP = 2  # around the cells of `image_grid`


def draw(
  images: Iterable[UInt8[np.ndarray, '_ _ 3']],
  titles: Sequence[str],
  columns: int = 8,
  cell: int = 160,
  lines: int = 1,
) -> UInt8[np.ndarray, 'height width 3']:
  """Draws images of any shape, row by row, each above its title.

  Args:
    images: at least one.
    titles: one per image; what does not fit its lines is cut.
    columns: images per row.
    cell: longest side of a drawn image, in pixels; larger ones are reduced,
      smaller ones enlarged by an integer factor with every pixel in sight. Less
      where that leaves all of them smaller.
    lines: of a title, which is broken between words.
  """
  drawn = [_fit(pixels, cell) for pixels in images]
  cell = max(max(image.shape) for image in drawn)
  columns = min(columns, len(drawn))
  grid = Grid(columns, cell, cell, _GAP, below=lines * _LINE)
  sheet = Image.fromarray(grid.draw(drawn))
  pen = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(11)
  for i, title in enumerate(titles):
    top, left = grid.corner(i)
    for k, line in enumerate(_break(title, cell, font)[:lines]):
      pen.text((left, top + cell + k * _LINE), line, (0, 0, 0), font)
  return np.asarray(sheet)


def draw_classes(
  images: UInt8[np.ndarray, 'I H W 3'],
  labels: Int[np.ndarray, 'I'],
  names: Sequence[str],
  columns: int = 10,
) -> UInt8[np.ndarray, 'height width 3']:
  """Draws a labelled row for each class, in the order of the labels.

  Args:
    images: of one size; small ones are enlarged as by `image_grid`.
    labels: of each.
    names: of the classes, by label.
    columns: images in a row; more of a class are left out.
  """
  classes = sorted({int(label) for label in labels})
  rows = [images[labels == label][:columns] for label in classes]
  columns = max(map(len, rows))
  blank = np.full((1, *images.shape[1:]), 255, np.uint8)
  cells = [np.concatenate([r, *[blank] * (columns - len(r))]) for r in rows]
  grid = image_grid(np.concatenate(cells), columns)
  height = (len(grid) - _ROW_GAP) / len(rows)
  font = ImageFont.load_default(13)
  titles = [names[label] for label in classes]
  left = round(min(max(map(font.getlength, titles)), _NAME)) + 2 * _GAP
  sheet = Image.new('RGB', (left + grid.shape[1], grid.shape[0]), 'white')
  sheet.paste(Image.fromarray(grid), (left, 0))
  pen = ImageDraw.Draw(sheet)
  for k, title in enumerate(titles):
    (line, *_) = _break(title, left - 2 * _GAP, font)
    pen.text((_GAP, round((k + 0.5) * height) - 7), line, (0, 0, 0), font)
  return np.asarray(sheet)


def _break(title: str, width: int, font: Any) -> list[str]:
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


def _fit(
  pixels: UInt8[np.ndarray, 'H W 3'], cell: int
) -> UInt8[np.ndarray, 'height width 3']:
  """Scales an image to a longest side of at most `cell` pixels."""
  factor = cell // max(pixels.shape[:2])
  if factor:
    return pixels.repeat(factor, 0).repeat(factor, 1)
  image = Image.fromarray(pixels)
  image.thumbnail((cell, cell))
  return np.asarray(image)
