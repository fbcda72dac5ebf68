"""The flow-matching loss, one number for each example."""

import jax
import jax.numpy as jnp

from pixeldit_jax.flow.path import interpolate, velocity
from pixeldit_jax.typing import Array, Float, Int, Key, VelocityFn


def flow_matching_loss(
  velocity_fn: VelocityFn,
  data: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  t: Float[Array, 'B'],
) -> Float[Array, 'B']:
  """Mean squared error of the velocity over all pixels and channels.

  Args:
    velocity_fn: the network, its condition already given.
    data: images in [-1, 1].
    noise: standard normal.
    t: times in [0, 1].
  """
  predicted = velocity_fn(interpolate(data, noise, t), t)
  error = predicted.astype(jnp.float32) - velocity(data, noise)
  return jnp.mean(error**2, axis=(1, 2, 3))


def drop_labels(
  key: Key, labels: Int[Array, 'B'], rate: float, null: int
) -> Int[Array, 'B']:
  """Labels, each replaced by `null` with probability `rate`.

  Training on both makes classifier-free guidance possible.
  """
  dropped = jax.random.bernoulli(key, rate, labels.shape)
  return jnp.where(dropped, null, labels)
