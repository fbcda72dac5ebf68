"""Points are drawn where they belong, on axes of round numbers."""

import numpy as np
import pytest

from pixeldit_jax.images import plots


@pytest.mark.parametrize(
  'low, high',
  [(0, 1), (1.61, 9.84), (2.36, 2.37), (-3, 250), (5, 5), (0, 0), (1e-7, 3e-7)],
)
def test_ticks_are_few_and_hold_all(low, high):
  ticks = plots.ticks(low, high)
  assert 2 <= len(ticks) <= 9
  assert ticks[0] <= low and ticks[-1] >= high
  steps = np.diff(ticks)
  np.testing.assert_allclose(steps, steps[0])


def _marks(picture, colour):
  """Centres (x, y) of the columns and rows that a colour covers."""
  pixels = np.asarray(picture)
  rows, columns = np.nonzero((pixels == colour).all(axis=2))
  left = columns < 745  # without the legend
  return columns[left], rows[left]


def test_higher_is_higher_and_later_is_farther():
  line = [(1.0, 3.0), (2.0, 1.0), (4.0, 2.0)]
  picture = plots.draw('fid', 'guidance', {'': line})
  columns, rows = _marks(picture, (0x1F, 0x5F, 0xA8))
  first, last = columns.min(), columns.max()
  lowest = columns[rows == rows.max()].mean()  # y = 1 lies at x = 2
  assert abs((lowest - first) / (last - first) - 1 / 3) < 0.02
  assert rows[columns == first].mean() < rows[columns == last].mean()


def test_texts_lie_at_even_distances():
  line = [('0.1:1', 3.0), ('0.1:0.9', 1.0), ('0:1', 2.0)]
  columns, rows = _marks(
    plots.draw('fid', 'interval', {'': line}), (0x1F, 0x5F, 0xA8)
  )
  lowest = columns[rows == rows.max()].mean()
  first, last = columns.min(), columns.max()
  assert abs((lowest - first) / (last - first) - 1 / 2) < 0.02


def test_nothing_to_draw_is_refused():
  for series in ({}, {'a': []}, {'a': [(1.0, float('nan'))]}):
    with pytest.raises(ValueError, match='finite points'):
      plots.draw('fid', 'guidance', series)
