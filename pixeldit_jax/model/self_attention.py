"""Multi-head self-attention with normed queries and keys, and rotary."""

from flax import nnx

from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear, make_norm
from pixeldit_jax.model.rope import Rotary, rotate
from pixeldit_jax.typing import Array, Float


class SelfAttention(nnx.Module):
  """Fused qkv without bias, norms of q and k per head, projection with bias."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width, heads, size = config.width, config.heads, config.head_size
    self.implementation = config.attention
    self.qkv = Linear(
      width,
      (3, heads, size),
      ('embed', None, 'heads', None),
      bias=False,
      dtype=config.dtype,
      rngs=rngs,
    )
    self.q_norm = make_norm(config, size)
    self.k_norm = make_norm(config, size)
    self.proj = Linear(
      (heads, size),
      width,
      ('heads', None, 'embed'),
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[Array, 'B L D'], rotary: Rotary | None
  ) -> Float[Array, 'B L D']:
    qkv_BL3NK = self.qkv(x)
    q_BLNK = self.q_norm(qkv_BL3NK[:, :, 0])
    k_BLNK = self.k_norm(qkv_BL3NK[:, :, 1])
    v_BLNK = qkv_BL3NK[:, :, 2]
    if rotary is not None:
      q_BLNK, k_BLNK = rotate(q_BLNK, rotary), rotate(k_BLNK, rotary)
    out_BLNK = attend(
      q_BLNK, k_BLNK, v_BLNK, implementation=self.implementation
    )
    return self.proj(out_BLNK)
