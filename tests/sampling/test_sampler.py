"""Samples: the same for any batch and mesh, and what is written of them."""

import jax
import numpy as np
import pytest

from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.class_labels import parse_labels
from pixeldit_jax.sampling.sampler import Sampler


@pytest.mark.slow
def test_an_image_depends_only_on_its_index(tiny_weights):
  config, weights, _ = tiny_weights
  labels = np.arange(12) % 10

  def images(devices, batch_size, first=0):
    context = RunContext.build(config, jax.devices()[:devices])
    sampler = Sampler(context, batch_size=batch_size)
    assert sampler.batch_size % devices == 0
    indices = np.arange(first, 12)
    batches = sampler.sample(weights, indices, labels[indices])
    return np.concatenate(list(batches)).astype(int)

  whole = images(8, 12)
  assert whole.shape == (12, 28, 28, 3)
  assert np.ptp(whole) > 50
  for other in (images(1, 7), images(4, 64)):
    assert np.abs(whole - other).max() <= 1
  assert np.abs(whole[4:] - images(8, 8, first=4)).max() <= 1


def test_all_batches_are_one_program(tiny_weights):
  config, weights, _ = tiny_weights
  sampler = Sampler(RunContext.build(config), batch_size=8)
  indices = np.arange(19)
  sizes = [len(b) for b in sampler.sample(weights, indices, indices % 10)]
  assert sizes == [8, 8, 3]
  assert sampler.jitted._cache_size() == 1


def test_the_grid_shows_images_row_by_row():
  images = np.zeros((3, 96, 96, 3), np.uint8)
  images[1] = 100
  grid = image_grid(images, 2)
  assert grid.shape == (2 * 98 + 2, 2 * 98 + 2, 3)
  assert (grid[2:98, 2:98] == 0).all() and (grid[2:98, 100:196] == 100).all()
  assert (grid[100:, 100:] == 255).all()  # where a fourth would be


def test_labels_take_classes_in_turn():
  np.testing.assert_array_equal(parse_labels('3,5-6', 10, 5), [3, 5, 6, 3, 5])
  np.testing.assert_array_equal(parse_labels(None, 3, 4), [0, 1, 2, 0])


@pytest.mark.parametrize(
  'text, count, named',
  [
    ('10', 5, r'\[10\] is not a class'),
    ('cat', 5, '0,3,7'),
    ('5-3', 5, 'none is not a class'),
    ('1', 0, 'num_samples=0'),
  ],
)
def test_labels_out_of_range_are_refused(text, count, named):
  with pytest.raises(ValueError, match=named):
    parse_labels(text, 10, count)
