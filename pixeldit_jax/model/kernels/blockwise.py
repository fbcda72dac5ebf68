"""Attention over blocks of queries and keys: memory linear in the length.

Online softmax over key blocks (Rabe & Staats, arXiv 2112.05682) and a backward
pass that computes the scores again from the saved log-sum-exp (FlashAttention,
arXiv 2205.14135, algorithm 4). Runs on every platform; the reference for long
sequences, and the version for CPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pixeldit_jax.model.kernels import LOWEST, RESIDUALS
from pixeldit_jax.typing import Array, Bool, Float

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def blockwise_attention(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
  *,
  block: int = 512,
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v; zeros for a query without any key.

  Args:
    q_BLNK: queries; lengths that blocks do not divide are padded here.
    k_BSNK: keys.
    v_BSNK: values.
    mask_BS: True where a key may be attended.
    block: queries and keys in a block; no more than [B, N, block, block] scores
      exist at a time, forward or backward.
  """
  L, S = q_BLNK.shape[1], k_BSNK.shape[1]
  block_q, block_k = min(block, L), min(block, S)
  if mask_BS is None and S % block_k:
    mask_BS = jnp.ones(k_BSNK.shape[:2], bool)  # padding is not to be seen
  mask_sB11k = None
  if mask_BS is not None:
    mask_sB11k = _split(mask_BS, block_k)[:, :, None, None]
  o_lBNqK = _attention(
    *(
      _split(x, b).swapaxes(2, 3)
      for x, b in ((q_BLNK, block_q), (k_BSNK, block_k), (v_BSNK, block_k))
    ),
    mask_sB11k,
  )
  return _join(o_lBNqK.swapaxes(2, 3))[:, :L]


def _split(x_BL, block: int):
  """[B L ...] to [blocks B block ...], padded with zeros."""
  padding = [(0, 0), (0, -x_BL.shape[1] % block)] + [(0, 0)] * (x_BL.ndim - 2)
  x_BL = jnp.pad(x_BL, padding)
  shape = x_BL.shape[0], -1, block, *x_BL.shape[2:]
  return jnp.moveaxis(x_BL.reshape(shape), 1, 0)


def _join(x_lBq):
  """[blocks B block ...] to [B L ...]."""
  x_Blq = jnp.moveaxis(x_lBq, 0, 1)
  return x_Blq.reshape(x_Blq.shape[0], -1, *x_Blq.shape[3:])


# Below, l and s number the blocks of queries and keys, and q and k the tokens
# within one.


@jax.custom_vjp
def _attention(q_lBNqK, k_sBNkK, v_sBNkK, mask_sB11k):
  return _forward(q_lBNqK, k_sBNkK, v_sBNkK, mask_sB11k)[0]


def _forward(q_lBNqK, k_sBNkK, v_sBNkK, mask_sB11k):
  keys = k_sBNkK, v_sBNkK, mask_sB11k

  def attend_all(q_BNqK):
    start = (
      jnp.zeros(q_BNqK.shape, jnp.float32),
      *(jnp.full(q_BNqK.shape[:-1], x, jnp.float32) for x in (LOWEST, 0)),
    )
    online = functools.partial(_add_keys, q_BNqK)
    (o_BNqK, top_BNq, sum_BNq), _ = jax.lax.scan(online, start, keys)
    seen = sum_BNq > 0
    sum_BNq = jnp.where(seen, sum_BNq, 1)
    # Where nothing is seen, exp(score - lse) has to be 0.
    lse_BNq = jnp.where(seen, top_BNq + jnp.log(sum_BNq), -LOWEST)
    return (o_BNqK / sum_BNq[..., None]).astype(q_BNqK.dtype), lse_BNq

  o_lBNqK, lse_lBNq = jax.lax.map(attend_all, q_lBNqK)
  o_lBNqK = checkpoint_name(o_lBNqK, RESIDUALS)
  lse_lBNq = checkpoint_name(lse_lBNq, RESIDUALS)
  residuals = q_lBNqK, k_sBNkK, v_sBNkK, mask_sB11k, o_lBNqK, lse_lBNq
  return o_lBNqK, residuals


def _add_keys(q_BNqK, state, keys):
  """One step of the online softmax: sums so far, over exp(highest score)."""
  o_BNqK, top_BNq, sum_BNq = state
  k_BNkK, v_BNkK, mask_B11k = keys
  s_BNqk = _scores(q_BNqK, k_BNkK, mask_B11k)
  new_BNq = jnp.maximum(top_BNq, s_BNqk.max(-1))
  e_BNqk = jnp.exp(s_BNqk - new_BNq[..., None])
  if mask_B11k is not None:
    e_BNqk = jnp.where(mask_B11k, e_BNqk, 0)
  shrink_BNq = jnp.exp(top_BNq - new_BNq)
  o_BNqK = o_BNqK * shrink_BNq[..., None] + _einsum(
    'BNqk,BNkK->BNqK', e_BNqk.astype(v_BNkK.dtype), v_BNkK
  )
  return (o_BNqK, new_BNq, sum_BNq * shrink_BNq + e_BNqk.sum(-1)), None


def _scores(q_BNqK, k_BNkK, mask_B11k):
  """Scaled scores in float32, the softmax's precision."""
  s_BNqk = _einsum('BNqK,BNkK->BNqk', q_BNqK, k_BNkK)
  s_BNqk = s_BNqk * q_BNqK.shape[-1] ** -0.5
  return s_BNqk if mask_B11k is None else jnp.where(mask_B11k, s_BNqk, LOWEST)


def _backward(residuals, do_lBNqK):
  q_lBNqK, k_sBNkK, v_sBNkK, mask_sB11k, o_lBNqK, lse_lBNq = residuals
  # sum_k p dp, the softmax's own term, is o . do.
  delta_lBNq = _einsum('lBNqK,lBNqK->lBNq', o_lBNqK, do_lBNqK)
  queries = q_lBNqK, do_lBNqK, lse_lBNq, delta_lBNq

  def key_block(dq_lBNqK, keys):
    k_BNkK, v_BNkK, _ = keys
    start = jnp.zeros(k_BNkK.shape, jnp.float32)
    grads = functools.partial(_block_gradients, keys)
    (dk_BNkK, dv_BNkK), new_lBNqK = jax.lax.scan(grads, (start, start), queries)
    dk_BNkK, dv_BNkK = (
      dk_BNkK.astype(k_BNkK.dtype),
      dv_BNkK.astype(v_BNkK.dtype),
    )
    return dq_lBNqK + new_lBNqK, (dk_BNkK, dv_BNkK)

  start = jnp.zeros(q_lBNqK.shape, jnp.float32)
  keys = k_sBNkK, v_sBNkK, mask_sB11k
  dq_lBNqK, (dk_sBNkK, dv_sBNkK) = jax.lax.scan(key_block, start, keys)
  return dq_lBNqK.astype(q_lBNqK.dtype), dk_sBNkK, dv_sBNkK, None


def _block_gradients(keys, state, queries):
  """Adds what one pair of blocks gives to dk and dv; also its dq."""
  k_BNkK, v_BNkK, mask_B11k = keys
  dk_BNkK, dv_BNkK = state
  q_BNqK, do_BNqK, lse_BNq, delta_BNq = queries
  p_BNqk = jnp.exp(_scores(q_BNqK, k_BNkK, mask_B11k) - lse_BNq[..., None])
  if mask_B11k is not None:
    p_BNqk = jnp.where(mask_B11k, p_BNqk, 0)
  dp_BNqk = _einsum('BNqK,BNkK->BNqk', do_BNqK, v_BNkK)
  scale = q_BNqK.shape[-1] ** -0.5
  ds_BNqk = p_BNqk * (dp_BNqk - delta_BNq[..., None]) * scale
  p_BNqk, ds_BNqk = (x.astype(q_BNqK.dtype) for x in (p_BNqk, ds_BNqk))
  dv_BNkK = dv_BNkK + _einsum('BNqk,BNqK->BNkK', p_BNqk, do_BNqK)
  dk_BNkK = dk_BNkK + _einsum('BNqk,BNqK->BNkK', ds_BNqk, q_BNqK)
  dq_BNqK = _einsum('BNqk,BNkK->BNqK', ds_BNqk, k_BNkK)
  return (dk_BNkK, dv_BNkK), dq_BNqK


_attention.defvjp(_forward, _backward)
