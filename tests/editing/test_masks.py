"""Masks from a file, a box and a colour."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.editing.masks import grown, read_mask


@pytest.fixture
def image():
  pixels = np.zeros((6, 8, 3), np.uint8)
  pixels[2:4, 3:6] = 250, 10, 0
  return pixels


def test_a_box_in_pixels_or_shares(image):
  mask = read_mask('box:4,0,8,6', image)
  assert mask[:, 4:].all() and not mask[:, :4].any()
  np.testing.assert_array_equal(mask, read_mask('box:0.5,0.0,1.0,1.0', image))


def test_a_colour_and_what_is_not_of_it(image):
  mask = read_mask('colour:255,0,0', image)
  assert mask.sum() == 6 and mask[2:4, 3:6].all()
  np.testing.assert_array_equal(read_mask('not:colour:0,0,0,20', image), mask)
  assert read_mask('colour:255,0,0', image, grow=1).sum() == 4 * 5


def test_a_file_is_scaled_to_the_picture(image, tmp_path):
  pixels = np.zeros((12, 16), np.uint8)
  pixels[:, 8:] = 255
  Image.fromarray(pixels).save(tmp_path / 'mask.png')
  mask = read_mask(str(tmp_path / 'mask.png'), image)
  np.testing.assert_array_equal(mask, read_mask('box:4,0,8,6', image))


def test_a_mask_grows_to_the_edges_only():
  mask = np.zeros((3, 3), bool)
  mask[0, 0] = True
  assert grown(mask, 0).sum() == 1
  assert grown(mask, 1).sum() == 4 and grown(mask, 5).all()


@pytest.mark.parametrize(
  'text, named',
  [
    ('box:1,2,3', 'expected a file'),
    ('box:a,b,c,d', 'expected a file'),
    ('box:5,0,2,6', 'left before right'),
    ('box:0,0,9,6', 'inside 8 x 6'),
    ('colour:1,2', 'expected a file'),
    ('colour:0,255,0', 'marks no pixel'),
    ('nowhere.png', 'no file'),
  ],
)
def test_mistakes_are_told(image, text, named):
  with pytest.raises(ValueError, match=named):
    read_mask(text, image)


def test_a_file_that_is_no_image_is_refused(image, tmp_path):
  (tmp_path / 'mask.png').write_text('no')
  with pytest.raises(ValueError, match='no image'):
    read_mask(str(tmp_path / 'mask.png'), image)
