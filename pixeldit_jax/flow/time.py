"""The distribution of training times, and their shift towards noise."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float, Key

Times = Float[Array | np.ndarray, '...']


def shift_time(t: Times | float, shift: float) -> Times | float:
  """t / (t + (1 - t) * shift): above 1, more of the times are noisy."""
  return t / (t + (1 - t) * shift)


def sample_time(
  key: Key,
  batch: int,
  shift: float,
  discrete_steps: int = 0,
  mean: float = 0.0,
  std: float = 1.0,
) -> Float[Array, 'B']:
  """Logit-normal times, sigmoid of N(mean, std^2), then shifted.

  With `discrete_steps` n they are first rounded down to a multiple of 1 / n,
  as the text-to-image release is trained.
  """
  t = jax.nn.sigmoid(mean + std * jax.random.normal(key, (batch,)))
  if discrete_steps:
    t = jnp.floor(t * discrete_steps) / discrete_steps
  return jnp.asarray(shift_time(t, shift))
