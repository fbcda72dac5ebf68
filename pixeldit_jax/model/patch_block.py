"""A block of the patch path: by default DiT's with RMSNorm, rotary, SwiGLU."""

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import (
  Dropout,
  GeluMLP,
  LayerNorm,
  SwiGLU,
  dropout_of,
  make_norm,
  modulate,
  modulation_linear,
  no_dropout,
)
from pixeldit_jax.model.rope import Rotary
from pixeldit_jax.model.self_attention import SelfAttention
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Float, Key

QKV = tuple[Float[Array, 'B L N K'], ...]
Modulation = tuple[Float[Array, 'B #L D'], ...]


class PatchBlock(nnx.Module):
  """x += gate * Attn(modulate(norm x)); x += gate * MLP(modulate(norm x)).

  The six modulation vectors are one linear layer of the condition, by default
  zero at the start, so that the block starts as the identity.
  """

  def __init__(
    self,
    config: ModelConfig,
    tokens: str | None = 'patches',
    *,
    rngs: nnx.Rngs,
  ):
    """Makes the block.

    Args:
      config: sizes and ablations.
      tokens: logical axis of the tokens, by which they are sharded; None
        replicates them.
      rngs: for the weights.
    """
    self.tokens = tokens
    self.dropout = config.dropout
    self.norm1 = make_norm(config, config.width)
    if config.attention_norm == 'plain':
      self.norm1 = LayerNorm(config.width, affine=False)
    self.attn = SelfAttention(config, config.width, config.heads, rngs=rngs)
    self.norm2 = make_norm(config, config.width)
    MLP = GeluMLP if config.mlp == 'gelu' else SwiGLU
    self.mlp: SwiGLU | GeluMLP = MLP(config, rngs=rngs)
    self.adaln = modulation_linear(
      config, (6, config.width), (None, None), init=config.init, rngs=rngs
    )

  def __call__(
    self,
    x: Float[Array, 'B L D'],
    c: Float[Array, 'B #L D'],
    rotary: Rotary | None,
    keys: Key | None = None,
  ) -> Float[Array, 'B L D']:
    """The tokens after the block.

    Args:
      x: tokens.
      c: the condition, of each token or of all of an image.
      rotary: of the tokens.
      keys: for dropout, one for each example [B]; without them nothing drops.
    """
    qkv, m = self.pre_attention(x, c, rotary)
    attended = self.attn.attend(*qkv)
    if keys is None:
      return self.post_attention(x, attended, m)
    first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
    return self.post_attention(
      x,
      attended,
      m,
      drop_attention=dropout_of(first, self.dropout),
      drop_hidden=dropout_of(second, self.dropout),
    )

  def pre_attention(
    self,
    x: Float[Array, 'B L D'],
    c: Float[Array, 'B #L D'],
    rotary: Rotary | None,
  ) -> tuple[QKV, Modulation]:
    """Queries, keys and values of the modulated tokens; the six modulations."""
    if c.shape[1] == 1:
      m = jnp.unstack(self.adaln(c), axis=2)
    else:  # of each token, as large as the tokens: none is to be copied
      m = tuple(self.adaln.split_outputs(c))
    h = modulate(self.norm1(x), m[0], m[1])
    return self.attn.qkv_projection(h, rotary), m

  def post_attention(
    self,
    x: Float[Array, 'B L D'],
    attended_BLNK: Float[Array, 'B L N K'],
    m: Modulation,
    drop_attention: Dropout = no_dropout,
    drop_hidden: Dropout = no_dropout,
  ) -> Float[Array, 'B L D']:
    """The output of the block, given the result of attention."""
    x += m[2] * drop_attention(self.attn.output_projection(attended_BLNK))
    x += m[5] * self.mlp(modulate(self.norm2(x), m[3], m[4]), drop_hidden)
    return constrain(x, 'batch', self.tokens, None)
