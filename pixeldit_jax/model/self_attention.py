"""Multi-head self-attention with normed queries and keys, and rotary."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.kernels.xla import attention_weights
from pixeldit_jax.model.layers import Linear, make_norm
from pixeldit_jax.model.rope import Rotary, rotate
from pixeldit_jax.typing import Array, Bool, Float

_SEEN: contextvars.ContextVar[list[jax.Array] | None] = contextvars.ContextVar(
  'seen', default=None
)


@contextlib.contextmanager
def weights_seen() -> Iterator[list[jax.Array]]:
  """Collects the weights [B, N, L, S] of all attention that is traced inside.

  They can leave the trace only of unrolled blocks without rematerialisation.
  """
  seen: list[jax.Array] = []
  token = _SEEN.set(seen)
  try:
    yield seen
  finally:
    _SEEN.reset(token)


class SelfAttention(nnx.Module):
  """Fused qkv, norms of q and k as configured, projection with bias.

  The three steps are public, since in an MM-DiT block text and image tokens are
  projected with separate weights but attend together.
  """

  def __init__(
    self, config: ModelConfig, width: int, heads: int, *, rngs: nnx.Rngs
  ):
    size = width // heads
    self.heads = heads
    self.implementation = config.attention
    self.qkv = Linear(
      width,
      (3, width),
      ('embed', None, 'heads'),
      bias=config.biases,
      init=config.init,
      dtype=config.dtype,
      rngs=rngs,
    )
    self.norms = config.qk_norm
    if self.norms != 'none':
      normed = width if self.norms == 'joint' else size
      self.q_norm = make_norm(config, normed)
      self.k_norm = make_norm(config, normed)
    self.proj = Linear(
      width,
      width,
      ('heads', 'embed'),
      bias=config.mean_flow != 'tokens',
      init=config.init,
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[Array, 'B L D'], rotary: Rotary | None
  ) -> Float[Array, 'B L D']:
    return self.output_projection(self.attend(*self.qkv_projection(x, rotary)))

  def qkv_projection(
    self, x: Float[Array, 'B L D'], rotary: Rotary | None
  ) -> tuple[Float[Array, 'B L N K'], ...]:
    """Queries, keys and values."""
    # Else a TPU would split the weights into heads, and pad those of 72.
    qkv_BL3D = jax.lax.optimization_barrier(self.qkv(x))
    if self.norms == 'joint':
      q_BLD, k_BLD = (
        self.q_norm(qkv_BL3D[:, :, 0]),
        self.k_norm(qkv_BL3D[:, :, 1]),
      )
      q_BLNK, k_BLNK = self._heads(q_BLD), self._heads(k_BLD)
      v_BLNK = self._heads(qkv_BL3D[:, :, 2])
    else:
      qkv_BL3NK = self._heads(qkv_BL3D)
      q_BLNK, k_BLNK, v_BLNK = (qkv_BL3NK[:, :, i] for i in range(3))
      if self.norms == 'head':
        q_BLNK, k_BLNK = self.q_norm(q_BLNK), self.k_norm(k_BLNK)
    if rotary is not None:
      q_BLNK, k_BLNK = rotate(q_BLNK, rotary), rotate(k_BLNK, rotary)
    return q_BLNK, k_BLNK, v_BLNK

  def _heads(self, x: Float[Array, '... D']) -> Float[Array, '... N K']:
    return x.reshape(*x.shape[:-1], self.heads, -1)

  def attend(
    self,
    q_BLNK: Float[Array, 'B L N K'],
    k_BSNK: Float[Array, 'B S N K'],
    v_BSNK: Float[Array, 'B S N K'],
    mask_BS: Bool[Array, 'B S'] | None = None,
  ) -> Float[Array, 'B L N K']:
    """Attention by the kernel of the configuration."""
    if (seen := _SEEN.get()) is not None:
      seen.append(attention_weights(q_BLNK, k_BSNK, mask_BS))
    return attend(
      q_BLNK,
      k_BSNK,
      v_BSNK,
      mask_BS=mask_BS,
      implementation=self.implementation,
    )

  def output_projection(
    self, o_BLNK: Float[Array, 'B L N K']
  ) -> Float[Array, 'B L D']:
    """Joins the heads and projects them.

    The heads are joined with the tokens last. From that a TPU lays out all of
    attention with the tokens in its lanes, where heads of 72 would be padded.
    """
    o_BNKL = jnp.moveaxis(o_BLNK, 1, -1)
    o_BDL = o_BNKL.reshape(o_BNKL.shape[0], -1, o_BNKL.shape[-1])
    return self.proj(o_BDL.swapaxes(1, 2))
