"""The straight path from noise to data (PixelDiT, section 3.4)."""

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import Array, Float


def interpolate(
  data: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  t: Float[Array, '*times'],
) -> Float[Array, 'B H W C']:
  """x_t = t * data + (1 - t) * noise: t=0 is noise, t=1 is data.

  Args:
    data, noise: images.
    t: the time of each, or one for all.
  """
  t = jax.lax.expand_dims(jnp.atleast_1d(t), (1, 2, 3))
  return t * data + (1 - t) * noise


def velocity(
  data: Float[Array, 'B H W C'], noise: Float[Array, 'B H W C']
) -> Float[Array, 'B H W C']:
  """dx_t / dt, the target of the network: data - noise."""
  return data - noise
