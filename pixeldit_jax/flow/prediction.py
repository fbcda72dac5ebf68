"""Predictions of networks, a velocity or an image, as velocities.

A network of images (JiT, arXiv 2511.13720, section 4.3) gives the data at the
end of the path, to which the velocity from x at t is

  v = (data - x) / max(1 - t, 0.05)

which is exact below t = 0.95, and does not grow without bound above.
"""

import jax
import jax.numpy as jnp

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.path import velocity
from pixeldit_jax.typing import Array, Float

LEAST_TIME_LEFT = 0.05


def velocity_to(
  data: Float[Array, 'B H W C'],
  x: Float[Array, 'B H W C'],
  t: Float[Array, '#B'] | Float[Array, ''] | float,
) -> Float[Array, 'B H W C']:
  """The velocity that leads from x at t to the data."""
  left = jnp.maximum(1 - jnp.asarray(t, jnp.float32), LEAST_TIME_LEFT)
  return (data - x) / jax.lax.expand_dims(jnp.atleast_1d(left), (1, 2, 3))


def as_velocity(
  prediction: str,
  output: Float[Array, 'B H W C'],
  x: Float[Array, 'B H W C'],
  t: Float[Array, '#B'] | Float[Array, ''] | float,
) -> Float[Array, 'B H W C']:
  """The velocity that the output of a network stands for.

  Args:
    prediction: 'velocity' or 'image', `ModelConfig.prediction`.
    output: of the network at x and t.
    x: noisy images.
    t: their times.

  Raises:
    UserError: a network of noise.
  """
  if prediction == 'velocity':
    return output
  if prediction == 'noise':
    raise UserError(
      "model.prediction='noise': the network of a diffusion in steps has no "
      "velocity of this path; use samplers.ddpm, or 'velocity' or 'image'."
    )
  return velocity_to(output, x, t)


def target_velocity(
  prediction: str,
  data: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  x: Float[Array, 'B H W C'],
  t: Float[Array, 'B'],
) -> Float[Array, 'B H W C']:
  """The target of the prediction that `as_velocity` reads.

  For a network of images it is bounded as the velocity of the output is, so
  that the error is that of the image over max(1 - t, 0.05).
  """
  if prediction == 'velocity':
    return velocity(data, noise)
  return velocity_to(data, x, t)
