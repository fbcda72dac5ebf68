"""Attention for TPU in Pallas: scores only in VMEM, tokens in the lanes.

It has been compiled for TPUs and run in interpret mode, but never on a TPU:
`attend` takes it only where `model.attention=flash` asks for it.

FlashAttention (arXiv 2205.14135, algorithms 1 and 4). A TPU lays an array's
last axis in rows of 128: as last axis, heads of 64 or 72 channels would take 2
or 1.8 times their memory, so that channels come before tokens in every array of
this file, and scores are [S, L]. All gradients come from one kernel, which does
five products where two kernels would do seven.

Instructions of the inner block by the compiler for v5e, without a mask, waits
left out, over those of JAX's splash attention, whose outputs and gradients have
channels last:

| heads of           | 64   | 72, as 80 | 128  |
|--------------------|------|-----------|------|
| output             | 0.91 | 0.95      | 1.14 |
| gradients          | 0.70 | 0.78      | 1.02 |
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pixeldit_jax.model.kernels import KEPT, LOWEST, RESIDUALS
from pixeldit_jax.model.kernels.tpu import (
  LANES,
  SUBLANES,
  scaled,
  tpu_attention,
)

QUERIES, KEYS = 512, 1536  # in a block, at most
SCORES = QUERIES * KEYS  # in a block, of all its heads
VMEM = 48 * 2**20  # bytes that a kernel may take, where a core has as many
GRADIENTS = 8 * 2**20  # of these for the gradients of queries, in float32
LN2 = math.log(2)


class Blocks(NamedTuple):
  """How the kernels run.

  Attributes:
    queries, keys, heads: in one step.
    kept: remat may keep the output.
    interpret: run in Pallas interpret mode.
  """

  queries: int
  keys: int
  heads: int
  kept: bool
  interpret: bool


def _padded_attention(q_BLNK, k_BSNK, v_BSNK, mask_BS, interpret: bool):
  """Pads the arrays, and calls the kernel.

  Lengths are padded to full blocks and heads to full tiles, with zeros. One of
  the padded channels hides keys: it holds 1 in queries, and 0 or LOWEST in
  keys, which the product adds to the score.
  """
  B, L, N, K = q_BLNK.shape
  S = k_BSNK.shape[1]
  block_q, block_k = block_size(L, QUERIES), block_size(S, KEYS)
  heads = _heads(N, block_q * block_k)
  kept = L * S >= KEPT * KEPT
  blocks = Blocks(block_q, block_k, heads, kept, interpret)
  hides = mask_BS is not None or S % block_k > 0
  channels = K + hides + -(K + hides) % SUBLANES
  q_BLNK = scaled(q_BLNK, K**-0.5 * math.log2(math.e))  # for powers of 2
  q_BNKL = _prepare(q_BLNK, channels, block_q)
  k_BNKS, v_BNKS = (_prepare(x, channels, block_k) for x in (k_BSNK, v_BSNK))
  if hides:
    seen_BS = jnp.ones((B, S), bool) if mask_BS is None else mask_BS
    seen_BS = jnp.pad(seen_BS, ((0, 0), (0, -S % block_k)))
    hide_B11S = jnp.where(seen_BS, 0, LOWEST)[:, None, None]
    own_K1 = jnp.arange(channels)[:, None] == K
    k_BNKS = jnp.where(own_K1, hide_B11S.astype(k_BNKS.dtype), k_BNKS)
    q_BNKL = jnp.where(own_K1, jnp.ones((), q_BNKL.dtype), q_BNKL)
  o_BNKL = _attention(q_BNKL, k_BNKS, v_BNKS, blocks)
  return jnp.moveaxis(o_BNKL[:, :, :K, :L], -1, 1)


flash_attention = functools.partial(tpu_attention, _padded_attention)


def block_size(length: int, most: int) -> int:
  """Tokens in a block: as many as pad the length the least."""
  tiles, most = -(-length // LANES), most // LANES
  if tiles > most:
    tiles = min(range(most, most // 2, -1), key=lambda n: -tiles % n)
  return tiles * LANES


def _heads(heads: int, scores: int) -> int:
  """Heads in a block: several where the scores of one are few."""
  return next(
    n for n in range(heads, 0, -1) if heads % n == 0 and n * scores <= SCORES
  )


def _prepare(x_BLNK, channels: int, block: int):
  """Tokens last, padded to full blocks, and channels to this many."""
  x_BNKL = jnp.moveaxis(x_BLNK, 1, -1)
  _, _, K, L = x_BNKL.shape
  return jnp.pad(x_BNKL, ((0, 0), (0, 0), (0, channels - K), (0, -L % block)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q_BNKL, k_BNKS, v_BNKS, blocks):
  return _forward(q_BNKL, k_BNKS, v_BNKS, blocks)[0]


def _forward(q_BNKL, k_BNKS, v_BNKS, blocks):
  B, N, K, L = q_BNKL.shape
  block_q, block_k, heads, kept, interpret = blocks
  queries = _spec(heads, K, block_q, lambda i, j: i)
  keys = _spec(heads, K, block_k, lambda i, j: j)
  o_BNKL, lse_BN1L = pl.pallas_call(
    _forward_kernel,
    grid=(B, N // heads, L // block_q, k_BNKS.shape[-1] // block_k),
    in_specs=[queries, keys, keys],
    out_specs=[queries, _spec(heads, 1, block_q, lambda i, j: i)],
    out_shape=[
      jax.ShapeDtypeStruct(q_BNKL.shape, q_BNKL.dtype),
      jax.ShapeDtypeStruct((B, N, 1, L), jnp.float32),
    ],
    scratch_shapes=[
      pltpu.VMEM((heads, rows, block_q), jnp.float32) for rows in (K, 1, 1)
    ],
    compiler_params=_compiler_params(3),
    cost_estimate=_cost(2, q_BNKL, k_BNKS),
    interpret=interpret,
    name='flash_attention_forward',
  )(q_BNKL, k_BNKS, v_BNKS)
  if kept:
    o_BNKL = checkpoint_name(o_BNKL, RESIDUALS)
    lse_BN1L = checkpoint_name(lse_BN1L, RESIDUALS)
  return o_BNKL, (q_BNKL, k_BNKS, v_BNKS, o_BNKL, lse_BN1L)


def _backward(blocks, residuals, do_BNKL):
  q_BNKL, k_BNKS, v_BNKS, o_BNKL, lse_BN1L = residuals
  # sum_s p dp, the softmax's own term, is o . do.
  delta_BN1L = jnp.einsum(
    'BNKL,BNKL->BNL', o_BNKL, do_BNKL, preferred_element_type=jnp.float32
  )[:, :, None]
  queries = q_BNKL, do_BNKL, lse_BN1L, delta_BN1L
  # As many of the queries at a time as have their gradients in VMEM.
  _, _, K, L = q_BNKL.shape
  size = 4 * K * blocks.queries * blocks.heads
  most = max(1, GRADIENTS // size) * blocks.queries
  cuts = [*range(most, L, most)]
  dtype = jnp.float32 if cuts else k_BNKS.dtype
  parts = zip(*(jnp.split(x, cuts, axis=-1) for x in queries))
  dq, dk, dv = zip(
    *(_gradients(part, k_BNKS, v_BNKS, blocks, dtype) for part in parts)
  )
  dk_BNKS, dv_BNKS = (sum(d).astype(k_BNKS.dtype) for d in (dk, dv))
  return jnp.concatenate(dq, -1), dk_BNKS, dv_BNKS


def _gradients(queries, k_BNKS, v_BNKS, blocks, dtype):
  """Those of some queries, and what these add to those of keys and values."""
  q_BNKL, do_BNKL, lse_BN1L, delta_BN1L = queries
  B, N, K, L = q_BNKL.shape
  S = k_BNKS.shape[-1]
  block_q, block_k, heads, _, interpret = blocks
  of_queries = _spec(heads, K, block_q, lambda j, i: i)
  sums = _spec(heads, 1, block_q, lambda j, i: i)
  of_keys = _spec(heads, K, block_k, lambda j, i: j)
  # dq is complete after the last keys: until then its first block stays loaded.
  last = S // block_k - 1
  complete = _spec(heads, K, block_q, lambda j, i: jnp.where(j == last, i, 0))
  return pl.pallas_call(
    _backward_kernel,
    grid=(B, N // heads, S // block_k, L // block_q),
    in_specs=[of_queries, of_keys, of_keys, of_queries, sums, sums],
    out_specs=[complete, of_keys, of_keys],
    out_shape=[
      jax.ShapeDtypeStruct(q_BNKL.shape, q_BNKL.dtype),
      jax.ShapeDtypeStruct(k_BNKS.shape, dtype),
      jax.ShapeDtypeStruct(v_BNKS.shape, dtype),
    ],
    scratch_shapes=[
      pltpu.VMEM((L // block_q, heads, K, block_q), jnp.float32),
      pltpu.VMEM((heads, K, block_k), jnp.float32),
      pltpu.VMEM((heads, K, block_k), jnp.float32),
    ],
    compiler_params=_compiler_params(2),
    cost_estimate=_cost(5, q_BNKL, k_BNKS),
    interpret=interpret,
    name='flash_attention_backward',
  )(q_BNKL, k_BNKS, v_BNKS, do_BNKL, lse_BN1L, delta_BN1L)


_attention.defvjp(_forward, _backward)


def _forward_kernel(q, k, v, o, lse, o_sum, top, total):
  """One block of queries and one of keys, of some heads of one image."""
  step = pl.program_id(3)

  @pl.when(step == 0)
  def _start():
    o_sum[...] = jnp.zeros_like(o_sum)
    top[...] = jnp.full_like(top, jnp.finfo(jnp.float32).min)
    total[...] = jnp.zeros_like(total)

  for h in range(q.shape[0]):
    s_SL = _dot(k[h], q[h], 0, 0)
    new_1L = jnp.maximum(top[h], s_SL.max(0, keepdims=True))
    e_SL = jnp.exp2(s_SL - new_1L)
    shrink_1L = jnp.exp2(top[h] - new_1L)
    top[h] = new_1L
    total[h] = total[h] * shrink_1L + e_SL.sum(0, keepdims=True)
    o_KL = _dot(v[h], e_SL.astype(v.dtype), 1, 0)
    o_sum[h] = o_sum[h] * shrink_1L + o_KL

  @pl.when(step == pl.num_programs(3) - 1)
  def _finish():
    o[...] = (o_sum[...] / total[...]).astype(o.dtype)
    lse[...] = top[...] + jnp.log2(total[...])


def _backward_kernel(
  q, k, v, do, lse, delta, dq, dk, dv, dq_sum, dk_sum, dv_sum
):
  """One block of keys and one of queries, of some heads of one image."""
  j, i = pl.program_id(2), pl.program_id(3)

  @pl.when(j == 0)
  def _start_queries():
    dq_sum[i] = jnp.zeros(dq_sum.shape[1:], jnp.float32)

  @pl.when(i == 0)
  def _start_keys():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  for h in range(q.shape[0]):
    p_SL = jnp.exp2(_dot(k[h], q[h], 0, 0) - lse[h])
    dp_SL = _dot(v[h], do[h], 0, 0)
    ds_SL = (p_SL * (dp_SL - delta[h])).astype(q.dtype)
    dv_sum[h] += _dot(do[h], p_SL.astype(do.dtype), 1, 1)
    dk_sum[h] += _dot(q[h], ds_SL, 1, 1)
    dq_sum[i, h] += _dot(k[h], ds_SL, 1, 0)

  # The scores' powers are of 2: so are their gradients.
  @pl.when(i == pl.num_programs(3) - 1)
  def _finish_keys():
    dk[...] = (dk_sum[...] * LN2).astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)

  @pl.when(j == pl.num_programs(2) - 1)
  def _finish_queries():
    dq[...] = (dq_sum[i] * LN2).astype(dq.dtype)


def _dot(a, b, axis_a: int, axis_b: int):
  """The product of matrices over one axis of each, in float32."""
  dims = (((axis_a,), (axis_b,)), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _spec(heads: int, rows: int, block: int, index) -> pl.BlockSpec:
  """Blocks of [B N rows L]; index(the last two of the grid) is that in L."""
  return pl.BlockSpec(
    (None, heads, rows, block), lambda b, n, *at: (b, n, 0, index(*at))
  )


def _compiler_params(parallel: int) -> pltpu.CompilerParams:
  return pltpu.CompilerParams(
    dimension_semantics=[
      'parallel' if i < parallel else 'arbitrary' for i in range(4)
    ],
    vmem_limit_bytes=VMEM,
  )


def _cost(products: int, q_BNKL, k_BNKS) -> pl.CostEstimate:
  B, N, K, L = q_BNKL.shape
  scores = B * N * L * k_BNKS.shape[-1]
  arrays = 2 * (q_BNKL.size + k_BNKS.size) * q_BNKL.dtype.itemsize
  return pl.CostEstimate(
    flops=2 * products * scores * K,
    transcendentals=scores,
    bytes_accessed=arrays * products // 2,
  )
