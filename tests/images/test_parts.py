"""Random parts of images, by their numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.images.parts import random_part


def ramps(H, W):
  """An image whose channels are the row, the column and one."""
  rows, columns = jnp.meshgrid(
    jnp.arange(1.0 * H), jnp.arange(1.0 * W), indexing='ij'
  )
  image = jnp.stack([rows, columns, jnp.ones((H, W))], -1)
  return image[None]


@pytest.mark.parametrize(('H', 'W'), [(40, 40), (32, 48)])
def test_a_part_lies_where_its_numbers_say(H, W):
  u = np.array([[0.25, 0.8, 0.5, 0.9]], np.float32)
  part = random_part(ramps(H, W), jnp.asarray(u), 16)
  area = (0.08 + 0.92 * 0.25) * H * W
  aspect = (4 / 3) ** (2 * 0.8 - 1)  # width over height
  sides = np.array([np.sqrt(area / aspect), np.sqrt(area * aspect)])
  corner = np.array([0.5, 0.9]) * (np.array([H, W]) - sides)
  # The centre of pixel k of the part.
  at = corner + (np.arange(4, 12)[:, None] + 0.5) * sides / 16 - 0.5
  inner = part[0, 4:12, 4:12]
  np.testing.assert_allclose(inner[:, 0, 0], at[:, 0], atol=0.03)
  np.testing.assert_allclose(inner[0, :, 1], at[:, 1], atol=0.03)
  np.testing.assert_allclose(part[..., 2], 1, atol=1e-5)


def test_all_of_an_image_is_a_part_too():
  image = jax.random.normal(jax.random.key(0), (2, 24, 24, 3))
  u = jnp.tile(jnp.array([[1.0, 0.5, 0.3, 0.7]]), (2, 1))
  expected = jax.image.resize(image, (2, 16, 16, 3), 'cubic', antialias=True)
  np.testing.assert_allclose(random_part(image, u, 16), expected, atol=1e-5)
