"""Images lie in rows and columns, with gaps of the same width."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.images import grid


def test_images_are_drawn_row_by_row():
  images = np.stack([np.full((100, 120, 3), k, np.uint8) for k in range(5)])
  picture = grid.image_grid(images, 2)
  assert picture.shape == (3 * 102 + 2, 2 * 122 + 2, 3)
  for k in range(5):
    top, left = 2 + 102 * (k // 2), 2 + 122 * (k % 2)
    assert (picture[top : top + 100, left : left + 120] == k).all()
    assert (picture[top - 2 : top, left : left + 120] == 255).all()
  assert (picture[-100:, -120:] == 255).all()  # the sixth is missing


def test_small_images_are_enlarged_by_a_whole_factor():
  images = np.arange(2 * 28 * 28 * 3, dtype=np.uint8).reshape(2, 28, 28, 3)
  picture = grid.image_grid(images, 2)
  np.testing.assert_array_equal(
    picture[2 : 2 + 84 : 3, 2 : 2 + 84 : 3], images[0]
  )


def test_one_channel_is_grey():
  picture = grid.image_grid(np.full((1, 96, 96, 1), 7, np.uint8), 1)
  assert (picture[2:-2, 2:-2] == 7).all() and picture.shape == (100, 100, 3)


def test_smaller_images_are_in_the_middle_of_the_lower_edge():
  cells = grid.Grid(columns=2, height=10, width=20, gap=3, below=5)
  picture = cells.draw(
    [np.zeros((10, 20, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
  )
  assert picture.shape == (3 + 10 + 5 + 3, 3 + 2 * 23, 3)
  assert cells.corner(1) == (3, 26) and cells.corner(2) == (21, 3)
  rows, columns = np.nonzero(picture[:, 25:, 0] == 0)
  assert (rows.min(), rows.max()) == (9, 12)
  assert (columns.min() + 25, columns.max() + 25) == (33, 38)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_written_png_is_read_back(tmp_path, channels):
  image = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
  grid.write_png(tmp_path / 'sub' / 'a.png', image)
  found = np.asarray(Image.open(tmp_path / 'sub' / 'a.png'))
  np.testing.assert_array_equal(found.reshape(image.shape), image)
