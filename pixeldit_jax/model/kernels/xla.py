"""Attention by two einsums: for sequences whose [L, S] scores fit in memory."""

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import Array, Bool, Float


def xla_attention(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v; zeros for a query without any key.

  Heads go in front of the tokens and the scale into q before the products. On
  CPU that is 1.2 to 1.4 times as fast, forward and backward, as einsums of BLNK
  as it stands, and 1.3 to 1.8 times `jax.nn.dot_product_attention` (float32, L
  64 to 256, K 64 and 72); other compilers choose the layout themselves.
  """
  v_BNSK = v_BSNK.swapaxes(1, 2)
  p_BNLS = attention_weights(q_BLNK, k_BSNK, mask_BS).astype(v_BSNK.dtype)
  o_BLNK = jnp.einsum('BNLS,BNSK->BNLK', p_BNLS, v_BNSK).swapaxes(1, 2)
  if mask_BS is not None:
    o_BLNK = jnp.where(mask_BS.any(1)[:, None, None, None], o_BLNK, 0)
  return o_BLNK


def attention_weights(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
) -> Float[Array, 'B N L S']:
  """softmax(q k / sqrt(K)) in float32, over the keys of a mask."""
  dtype = q_BLNK.dtype
  # Times a float32, since a bfloat16 scale would be off for all scores alike.
  q_BLNK = (q_BLNK.astype(jnp.float32) * q_BLNK.shape[-1] ** -0.5).astype(dtype)
  q_BNLK, k_BNSK = q_BLNK.swapaxes(1, 2), k_BSNK.swapaxes(1, 2)
  # Scores and softmax in float32: bfloat16 has 8 bits for a sum over S keys.
  s_BNLS = jnp.einsum(
    'BNLK,BNSK->BNLS', q_BNLK, k_BNSK, preferred_element_type=jnp.float32
  )
  if mask_BS is not None:
    lowest = jnp.finfo(jnp.float32).min
    s_BNLS = jnp.where(mask_BS[:, None, None, :], s_BNLS, lowest)
  return jax.nn.softmax(s_BNLS, axis=-1)
