"""PixNerd's decoder: a neural field for each patch (arXiv 2507.23268).

A linear layer makes of every patch token the weights of a small perceptron,
which all pixels of that patch go through.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear, make_norm
from pixeldit_jax.model.rope import Rotary
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Float


class FieldBlock(nnx.Module):
  """z += SiLU(norm(z) W1) W2, the columns of W1 and W2 of length 1."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    E, F = config.pixel_width, config.field_ratio * config.pixel_width
    linear = functools.partial(
      Linear, config.width, dtype=config.dtype, rngs=rngs
    )
    self.norm = make_norm(config, E)
    self.first = linear((E, F), ('embed', None, 'mlp'))
    self.second = linear((F, E), ('embed', 'mlp', None))

  def __call__(
    self,
    z: Float[Array, 'B L P E'],
    s: Float[Array, 'B L D'],
    rotary: Rotary | None = None,
  ) -> Float[Array, 'B L P E']:
    del rotary
    h = jax.nn.silu(_apply(self.first(s), self.norm(z)))
    return constrain(
      z + _apply(self.second(s), h), 'batch', 'patches', None, None
    )


def _apply(
  w: Float[Array, 'B L I O'], z: Float[Array, 'B L P I']
) -> Float[Array, 'B L P O']:
  """z @ w, each column of w divided by its length.

  By dividing the product: w is as large as the pixels of several patches.
  """
  w32 = w.astype(jnp.float32)  # a sum of squares loses too much in bf16
  square = jnp.sum(w32**2, 2, keepdims=True)
  scale = jax.lax.rsqrt(jnp.maximum(square, 1e-24))
  return jnp.einsum('BLPI,BLIO->BLPO', z, w) * scale.astype(z.dtype)
