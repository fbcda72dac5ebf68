"""Lines of numbers as a picture, by Pillow alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixeldit_jax.errors import UserError

_WIDTH, _HEIGHT = 800, 480
_LEFT, _TOP, _BOTTOM = 90, 40, 60
_COLOURS = ('#1f5fa8', '#c8501e', '#2f8a4d', '#7a4fa3', '#8a6d1f', '#404040')


def draw(
  title: str,
  x_label: str,
  series: Mapping[str, Sequence[tuple[float | str, float]]],
) -> Image.Image:
  """Draws one line with marks for each series, and a legend.

  Args:
    title: above the plot: what y is.
    x_label: below the axis.
    series: name to points (x, y). Numbers lie where they belong; if any x is a
      text, all lie at even distances in the order in which they come.

  Raises:
    UserError: no points, or y that is not finite.
  """
  points = [point for line in series.values() for point in line]
  if not points or not np.isfinite([y for _, y in points]).all():
    raise UserError(f'A plot needs finite points, got {points}.')
  xs = list(dict.fromkeys(x for x, _ in points))
  if any(isinstance(x, str) for x in xs):
    places = {x: float(i) for i, x in enumerate(xs)}
  else:
    places = {x: float(x) for x in sorted(xs)}
  ys = ticks(min(y for _, y in points), max(y for _, y in points))
  low, high = min(places.values()), max(places.values())
  picture = Image.new('RGB', (_WIDTH, _HEIGHT), 'white')
  pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
  legend = 30 + max(int(font.getlength(name)) for name in series)
  right = _WIDTH - legend - 30

  def place(x, y):
    part = (places[x] - low) / (high - low) if high > low else 0.5
    up = (y - ys[0]) / (ys[-1] - ys[0])
    return (
      _LEFT + 20 + part * (right - _LEFT - 40),
      _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP),
    )

  first = next(iter(places))
  for y in ys:
    height = place(first, y)[1]
    pen.line([(_LEFT, height), (right, height)], '#dddddd')
    pen.text((_LEFT - 8, height), f'{y:g}', 'black', font, anchor='rm')
  for x in places:
    text = x if isinstance(x, str) else f'{x:g}'
    across = place(x, ys[0])[0]
    pen.text((across, _HEIGHT - _BOTTOM + 8), text, 'black', font, anchor='mt')
  middle = (_LEFT + right) / 2
  pen.text((middle, _HEIGHT - 14), x_label, 'black', font, anchor='ms')
  pen.text((_LEFT, _TOP - 14), title, 'black', font, anchor='ls')
  for i, (name, line) in enumerate(series.items()):
    colour = _COLOURS[i % len(_COLOURS)]
    marks = [place(x, y) for x, y in line]
    pen.line(marks, colour, width=2)
    for across, down in marks:
      pen.ellipse([across - 4, down - 4, across + 4, down + 4], colour)
    height = _TOP + 8 + 20 * i
    pen.line([(right + 10, height), (right + 26, height)], colour, width=3)
    pen.text((right + 32, height), name, 'black', font, anchor='lm')
  return picture


def ticks(low: float, high: float) -> list[float]:
  """Round numbers, four to nine of them, from below `low` to above `high`."""
  span = (high - low) or abs(high) or 1.0
  step = 10.0 ** math.floor(math.log10(span / 4))
  while span / step > 7:
    step *= 2 if span / step <= 14 else 5
  first, last = math.floor(low / step), math.ceil(high / step)
  last = max(last, first + 1)
  return [round(i * step, 12) for i in range(first, last + 1)]
