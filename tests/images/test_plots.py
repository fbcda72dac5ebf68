"""Plots: higher is higher, later is farther, and files are pictures."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.images import plots

BLUE = (0x1F, 0x77, 0xB4)  # matplotlib's first colour


def marks(path):
  """Columns and rows of the pixels of the first line."""
  pixels = np.asarray(Image.open(path).convert('RGB'))
  rows, columns = np.nonzero((pixels == BLUE).all(axis=2))
  return columns, rows


def draw(tmp_path, line, name=''):
  path = tmp_path / 'plot.png'
  plots.line_plot(path, {name: line}, 'guidance', 'fid')
  return path


def test_higher_is_higher_and_later_is_farther(tmp_path):
  path = draw(tmp_path, [(1.0, 3.0), (2.0, 1.0), (4.0, 2.0)])
  assert Image.open(path).size == (768, 480)
  columns, rows = marks(path)
  first, last = columns.min(), columns.max()
  lowest = columns[rows == rows.max()].mean()  # y = 1 is at x = 2
  assert abs((lowest - first) / (last - first) - 1 / 3) < 0.02
  assert rows[columns == first].mean() < rows[columns == last].mean()


def test_categories_are_at_equal_distances(tmp_path):
  path = draw(tmp_path, [('0.1:1', 3.0), ('0.1:0.9', 1.0), ('0:1', 2.0)])
  columns, rows = marks(path)
  lowest = columns[rows == rows.max()].mean()
  first, last = columns.min(), columns.max()
  assert abs((lowest - first) / (last - first) - 1 / 2) < 0.02


def test_names_are_in_a_legend(tmp_path):
  line = [(0.0, 0.0), (1.0, 1.0)]
  bare = np.asarray(Image.open(draw(tmp_path, line)))
  named = np.asarray(Image.open(draw(tmp_path, line, 'order=2')))
  assert (bare != named).any()


def test_bars_are_as_long_as_their_values(tmp_path):
  path = tmp_path / 'bars.png'
  values = {'loss': {'a': 1.0, 'b': 0.25}, 'share': {'a': 0.5, 'b': 1.0}}
  plots.bar_plot(path, values, {'share': '{:.0%}'})
  assert Image.open(path).size == (1536, 480)
  columns, rows = marks(path)
  for panel, (top, bottom) in (
    (columns < 768, (4, 1)),
    (columns > 768, (1, 2)),
  ):
    lengths = np.bincount(rows[panel])
    filled = np.flatnonzero(lengths > 20)
    ratio = lengths[filled[3]] / lengths[filled[-4]]
    assert ratio == pytest.approx(top / bottom, rel=0.05)


def test_nothing_to_draw_is_refused(tmp_path):
  for series in ({}, {'a': []}, {'a': [(1.0, float('nan'))]}):
    with pytest.raises(ValueError, match='finite values'):
      plots.line_plot(tmp_path / 'plot.png', series, 'x', 'y')
  with pytest.raises(ValueError, match='finite values'):
    plots.bar_plot(tmp_path / 'plot.png', {'loss': {'a': float('inf')}})
  assert not list(tmp_path.iterdir())
