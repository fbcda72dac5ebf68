"""Random parts of images, in a differentiable program."""

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import Array, Float

LEAST_AREA = 0.08  # of the image
ASPECT = 4 / 3


def random_part(
  images: Float[Array, 'B H W C'], uniforms: Float[Array, 'B 4'], side: int
) -> Float[Array, 'B s s C']:
  """A part of each image, resized by cubic and antialiased interpolation.

  Its area is uniform from 8% to all of the image, the logarithm of its aspect
  from 3:4 to 4:3, and its corner wherever it fits (arXiv 1409.4842's crops, as
  pixel MeanFlow takes them, arXiv 2601.22158).

  Args:
    images: float.
    uniforms: from [0, 1): for area, aspect, and the corner down and across.
    side: of what is returned.
  """
  _, H, W, C = images.shape

  def part(image, u):
    area = (LEAST_AREA + (1 - LEAST_AREA) * u[0]) * H * W
    aspect = ASPECT ** (2 * u[1] - 1)
    sides = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)])
    whole = jnp.array([H, W], jnp.float32)
    sides = jnp.minimum(sides, whole)
    corner = u[2:] * (whole - sides)
    scale = side / sides
    return jax.image.scale_and_translate(
      image,
      (side, side, C),
      (0, 1),
      scale,
      -corner * scale,
      method='cubic',
      antialias=True,
    )

  return jax.vmap(part)(images, uniforms)
