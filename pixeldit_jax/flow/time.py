"""Which times are trained on, and the shift towards noise."""

import jax

from pixeldit_jax.typing import Array, Float, Key


def shift_time(t: Float[Array, '...'], shift: float) -> Float[Array, '...']:
  """t / (t + (1 - t) * shift): above 1, more of the times are noisy."""
  return t / (t + (1 - t) * shift)


def sample_time(key: Key, batch: int, shift: float) -> Float[Array, 'B']:
  """Logit-normal times, sigmoid of N(0, 1), then shifted."""
  return shift_time(jax.nn.sigmoid(jax.random.normal(key, (batch,))), shift)
