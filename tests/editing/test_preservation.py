"""What is measured outside of a region of an edit."""

import numpy as np
import pytest

from pixeldit_jax.editing.preservation import (
  preservation,
  ssim_map,
  structure_distance,
)


@pytest.fixture
def picture():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def region():
  mask = np.zeros((24, 32), bool)
  mask[8:16, 8:20] = True
  return mask


def test_a_change_inside_costs_nothing_outside(picture, region):
  edited = picture.copy()
  edited[region] = 255 - edited[region]
  found = preservation(picture, edited, region)
  assert found['psnr'] == np.inf and found['difference'] == 0
  assert found['ssim'] == pytest.approx(1) and found['structure'] == 0
  assert found['changed'] > 50


def test_a_change_outside_is_told_in_decibels(picture, region):
  edited = picture.astype(int)
  edited[~region] += np.where(edited[~region] > 127, -4, 4)
  found = preservation(picture, edited.astype(np.uint8), region)
  assert found['psnr'] == pytest.approx(20 * np.log10(255 / 4))
  assert found['difference'] == 4 and found['changed'] == 0
  assert 0.95 < found['ssim'] < 1


def test_ssim_is_that_of_the_equation_for_flat_images():
  a, b = np.full((9, 9, 3), 100, np.uint8), np.full((9, 9, 3), 120, np.uint8)
  c1 = (0.01 * 255) ** 2
  expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
  np.testing.assert_allclose(ssim_map(a, b), expected)


def test_structure_is_of_shapes_and_not_of_brightness(picture):
  darker = (picture // 2 + 20).astype(np.uint8)
  other = picture[::-1].copy()
  assert structure_distance(picture, darker) < 0.01
  assert structure_distance(picture, other) > 0.05
