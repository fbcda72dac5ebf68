"""Samples beside the training pictures that are nearest to them."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.eval.nearest_images import draw_nearest, nearest, reduced
from pixeldit_jax.images.image_sets import open_images


def pictures(count, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
  return coarse.repeat(8, 1).repeat(8, 2)


def test_copies_and_mirror_images_are_found():
  data = pictures(20)
  samples = np.stack([data[7], data[3][:, ::-1], data[5] // 2 + 60])
  index, distance = nearest(reduced(samples), reduced(data))
  assert list(index) == [7, 3, 5]
  assert distance[0] < 1e-3 and distance[1] < 1e-3 and distance[2] > 0.05


def test_a_sheet_and_how_near_the_data_are_to_each_other(tmp_path):
  data = pictures(30)
  np.savez(tmp_path / 'samples.npz', arr_0=pictures(10, seed=1))
  samples = open_images(tmp_path / 'samples.npz', 10)
  found = draw_nearest(tmp_path / 'n.png', samples, [data[:16], data[16:]], 6)
  assert Image.open(tmp_path / 'n.png').size[0] > 8 * 32
  # Other pictures of the same kind are as far as the data from each other.
  assert found['nearest_sample'] == pytest.approx(
    found['nearest_data'], rel=0.3
  )
  np.savez(tmp_path / 'copies.npz', arr_0=data[:10])
  copies = open_images(tmp_path / 'copies.npz', 10)
  found = draw_nearest(tmp_path / 'c.png', copies, [data], 6)
  assert found['nearest_sample'] < 0.1 * found['nearest_data']
