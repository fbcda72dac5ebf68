"""The ratio of differences across the borders of patches to those inside."""

import numpy as np
import pytest

from pixeldit_jax.metrics.patch_borders import PixelDifferences


def noise(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 200, shape, np.uint8)


def test_it_is_the_ratio_of_means():
  images = noise((3, 8, 12, 3))
  x = images.astype(int)
  down, across = np.abs(np.diff(x, axis=1)), np.abs(np.diff(x, axis=2))
  on, off = down[:, 3::4], np.delete(down, [3], 1)
  on2, off2 = across[:, :, 3::4], np.delete(across, [3, 7], 2)
  # Every line of pixels counts alike.
  border = [on.mean((0, 2, 3)), on2.mean((0, 1, 3))]
  inside = [off.mean((0, 2, 3)), off2.mean((0, 1, 3))]
  expected = np.concatenate(border).mean() / np.concatenate(inside).mean()
  found = PixelDifferences.of(images)
  assert found.border_ratio(4) == pytest.approx(expected)
  parts = PixelDifferences.of(images[:1]).plus(PixelDifferences.of(images[1:]))
  assert parts.border_ratio(4) == pytest.approx(expected)
  assert parts.images == 3


def test_a_grid_of_patches_is_seen():
  plain = noise((64, 32, 32, 3))
  assert PixelDifferences.of(plain).border_ratio(8) == pytest.approx(1, abs=0.1)
  # Half the contrast inside: patches that differ by their means.
  means = noise((64, 4, 4, 3), 1).repeat(8, 1).repeat(8, 2)
  patches = plain // 2 + means // 4
  assert PixelDifferences.of(patches).border_ratio(8) > 1.1
  assert PixelDifferences.of(patches).border_ratio(5) < 1.1


def test_there_is_none_without_borders_or_differences():
  assert PixelDifferences.of(noise((2, 8, 8, 3))).border_ratio(8) is None
  assert PixelDifferences.of(noise((2, 8, 8, 3))).border_ratio(1) is None
  even = np.full((2, 8, 8, 3), 7, np.uint8)
  assert PixelDifferences.of(even).border_ratio(4) is None
