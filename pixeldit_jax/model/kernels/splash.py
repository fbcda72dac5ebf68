"""Attention by JAX's Pallas splash kernel: the default on TPU.

FlashAttention (arXiv 2205.14135) with the scores only in VMEM. This file brings
lengths, head sizes and layouts to those that the kernel takes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as pallas_splash

from pixeldit_jax.model.kernels import KEPT, RESIDUALS
from pixeldit_jax.model.kernels.tpu import (
  LANES,
  SUBLANES,
  scaled,
  tpu_attention,
)

BLOCK = 1024
KEYS = 2 * BLOCK  # in a block of the backward pass; 4,096 overflow a core
PARTS = 32  # partial gradients of queries, of all heads, at most


def _attention(q_BLNK, k_BSNK, v_BSNK, mask_BS, interpret: bool):
  """Pads the arrays, and calls the kernel.

  Lengths are padded to a multiple of a block, and head sizes with zeros to one
  of 16 (72 to 80), which leaves the scores and the first K outputs as they are.
  """
  B, L, N, K = q_BLNK.shape
  S = k_BSNK.shape[1]
  # The kernel has no scale, so that of the true head size goes into q.
  q_BNLK = _prepare(scaled(q_BLNK, K**-0.5))
  k_BNSK, v_BNSK = _prepare(k_BSNK), _prepare(v_BSNK)
  kept = L * S >= KEPT * KEPT
  kernel = _kernel(N, q_BNLK.shape[2:], k_BNSK.shape[2:], kept, interpret)
  if mask_BS is None and k_BNSK.shape[2] == S:
    o_BNLK = jax.vmap(kernel)(q_BNLK, k_BNSK, v_BNSK)
  else:
    # A query sees the keys of its own segment, 1; padding is in segment 0.
    ids_BS = jnp.ones((B, S), bool) if mask_BS is None else mask_BS
    ids_BS = jnp.pad(ids_BS, ((0, 0), (0, k_BNSK.shape[2] - S)))
    ids_BL = jnp.ones((B, q_BNLK.shape[2]), jnp.int32)
    segments = pallas_splash.SegmentIds(ids_BL, ids_BS.astype(jnp.int32))
    o_BNLK = jax.vmap(kernel)(q_BNLK, k_BNSK, v_BNSK, segments)
  return o_BNLK.swapaxes(1, 2)[:, :L, :, :K]


splash_attention = functools.partial(tpu_attention, _attention)


def _prepare(x_BLNK):
  """Heads in front, length and head size padded with zeros."""
  L, K = x_BLNK.shape[1], x_BLNK.shape[3]
  length = -L % (LANES if L <= BLOCK // 2 else BLOCK // 2)
  x_BNLK = x_BLNK.swapaxes(1, 2)
  return jnp.pad(x_BNLK, ((0, 0), (0, 0), (0, length), (0, -K % SUBLANES)))


def _kernel(
  heads: int,
  queries: tuple[int, int],
  keys: tuple[int, int],
  kept: bool,
  interpret: bool,
):
  """The kernel for (length, head size) of queries and of keys.

  With `kept`, remat may keep the output.
  """
  (L, K), (S, _) = queries, keys
  block_q, block_k = (
    n if n <= BLOCK // 2 else BLOCK if n % BLOCK == 0 else BLOCK // 2
    for n in (L, S)
  )
  # An axis of K < 128 in the lanes would take up to 8 times its memory.
  layout = pallas_splash.QKVLayout.SEQ_MINOR
  if K % LANES == 0:
    layout = pallas_splash.QKVLayout.HEAD_DIM_MINOR
  # One kernel for all gradients does five products where two kernels do seven.
  # It leaves dq in parts, one for each block of keys whose dk and dv it sums:
  # not where these would take much memory.
  block_dkv = S if S <= KEYS else math.gcd(S, KEYS)
  fused = S == block_dkv or S // block_dkv * heads <= PARTS
  sizes = pallas_splash.BlockSizes(
    block_q=block_q,
    block_kv=block_k,
    block_kv_compute=block_k,
    block_q_dkv=min(block_q, BLOCK // 2) if fused else block_q,
    block_kv_dkv=block_dkv if fused else block_k,
    block_kv_dkv_compute=block_k,
    block_q_dq=None if fused else block_q,
    block_kv_dq=None if fused else block_k,
    use_fused_bwd_kernel=fused,
    q_layout=layout,
    k_layout=layout,
    v_layout=layout,
  )
  masks = [pallas_splash.FullMask((L, S))] * heads
  return pallas_splash.make_splash_mha(
    pallas_splash.MultiHeadMask(masks),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=sizes,
    residual_checkpoint_name=RESIDUALS if kept else None,
    interpret=interpret,
  )
