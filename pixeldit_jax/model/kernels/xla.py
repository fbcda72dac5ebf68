"""Attention by two einsums: for sequences whose [L, S] scores fit in memory.

The softmax is normalised after the product with the values, on [L, K] instead
of [L, S], as in FlashAttention (arXiv 2205.14135, section 3.1).
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pixeldit_jax.model.kernels import RESIDUALS
from pixeldit_jax.typing import Array, Bool, Float


def xla_attention(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v; zeros for a query without any key.

  Heads are moved in front of the tokens before the products: on CPU that is 1.2
  to 1.5 times as fast, forward and backward, as einsums of BLNK as it stands
  and up to 1.8 times `jax.nn.dot_product_attention` (L 64 to 256, K 64 and 72);
  other compilers choose the layout themselves.
  """
  dtype = v_BSNK.dtype
  q_BNLK, k_BNSK, v_BNSK = (x.swapaxes(1, 2) for x in (q_BLNK, k_BSNK, v_BSNK))
  # Scores and softmax in float32: bfloat16 has 8 bits for a sum over S keys.
  s_BNLS = jnp.einsum(
    'BNLK,BNSK->BNLS', q_BNLK, k_BNSK, preferred_element_type=jnp.float32
  )
  s_BNLS = s_BNLS * q_BLNK.shape[-1] ** -0.5
  if mask_BS is not None:
    mask_B11S = mask_BS[:, None, None, :]
    s_BNLS = jnp.where(mask_B11S, s_BNLS, jnp.finfo(jnp.float32).min)
  top_BNL1 = jax.lax.stop_gradient(s_BNLS.max(-1, keepdims=True))
  e_BNLS = jnp.exp(s_BNLS - top_BNL1)
  if mask_BS is not None:
    e_BNLS = jnp.where(mask_B11S, e_BNLS, 0)
  sum_BNL1 = e_BNLS.sum(-1, keepdims=True)
  o_BNLK = jnp.einsum(
    'BNLS,BNSK->BNLK',
    e_BNLS.astype(dtype),
    v_BNSK,
    preferred_element_type=jnp.float32,
  )
  if mask_BS is not None:
    sum_BNL1 = jnp.where(sum_BNL1 > 0, sum_BNL1, 1)
  o_BNLK = (o_BNLK * (1 / sum_BNL1)).astype(dtype)
  return checkpoint_name(o_BNLK.swapaxes(1, 2), RESIDUALS)
