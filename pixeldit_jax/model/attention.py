"""Scaled dot-product attention: the only switch between its kernels."""

from pixeldit_jax.model.kernels.xla import xla_attention
from pixeldit_jax.typing import Array, Float


def attend(
  q: Float[Array, 'B L N K'],
  k: Float[Array, 'B S N K'],
  v: Float[Array, 'B S N K'],
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v, with the softmax in float32."""
  return xla_attention(q, k, v)
