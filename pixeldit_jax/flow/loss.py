"""The flow-matching loss, one number for each example."""

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import AnyArray, Array, Float, Int, Key


def flow_matching_loss(
  predicted: Float[Array, 'B H W C'], target: Float[Array, 'B H W C']
) -> Float[Array, 'B']:
  """Mean squared error of the velocity over all pixels and channels.

  Args:
    predicted: velocity, of the network at `interpolate(data, noise, t)`.
    target: that of the path, or `prediction.target_velocity`.
  """
  error = predicted.astype(jnp.float32) - target
  return jnp.mean(error**2, axis=(1, 2, 3))


def drop_labels(
  key: Key, labels: Int[AnyArray, 'B'], rate: float, null: int
) -> Int[AnyArray, 'B']:
  """Labels, each replaced by `null` with probability `rate`.

  Training on both makes classifier-free guidance possible. A label that is no
  class (-1, or any where there are no classes) is `null` always.
  """
  dropped = jax.random.bernoulli(key, rate, labels.shape)
  known = (0 <= labels) & (labels < null)
  return jnp.where(dropped | ~known, null, labels)
