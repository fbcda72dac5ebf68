"""Scaled dot-product attention: the only switch between its kernels.

The mesh is that of the context (`sharding.use`) unless one is passed. It
decides how the work is split, and for which platform the program is compiled: a
program for TPU is right even where it is compiled without a TPU. Without a mesh
the platform is JAX's default backend, and nothing is split.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ATTENTION as IMPLEMENTATIONS
from pixeldit_jax.model.kernels import cudnn
from pixeldit_jax.model.kernels.blockwise import blockwise_attention
from pixeldit_jax.model.kernels.cudnn import cudnn_attention
from pixeldit_jax.model.kernels.flash import flash_attention
from pixeldit_jax.model.kernels.sharded import MeshAxes, sharded
from pixeldit_jax.model.kernels.splash import splash_attention
from pixeldit_jax.model.kernels.xla import xla_attention
from pixeldit_jax.sharding import mesh_axes, platform
from pixeldit_jax.typing import Array, Bool, Float

# From LONG x LONG scores on, the kernels that never hold them take over. On CPU
# XLA and blockwise take equal time at 1024 tokens, blockwise 0.77 of XLA's at
# 2048. By the compiler for v5e, forward and backward passes over 256 tokens (4
# images, 16 heads) move 155 MiB by XLA and 71 by splash for heads of 64, 161
# and 113 for heads of 72; over 1024 tokens 1867 and 285, 1892 and 453.
LONG = 1024
LONG_TPU = 256

# A new kernel is a file in `kernels/`, a line here and its name in
# `model.config.ATTENTION`.
KERNELS: dict[str, Callable[..., Float[Array, 'B L N K']]] = {
  'xla': xla_attention,
  'blockwise': blockwise_attention,
  'splash': splash_attention,
  'flash': flash_attention,
  'cudnn': cudnn_attention,
}


def attend(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  *,
  mask_BS: Bool[Array, 'B S'] | None = None,
  implementation: str = 'auto',
  mesh: Mesh | AbstractMesh | None = None,
  axes: MeshAxes | None = None,
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v, with the softmax in float32.

  Args:
    q_BLNK: queries.
    k_BSNK: keys.
    v_BSNK: values.
    mask_BS: True where a key may be attended; a query that may attend to none
      gets zeros.
    implementation: one of `IMPLEMENTATIONS`; 'auto' takes the kernel by
      platform, length, precision and head size (see `choose`).
    mesh: the devices; that of the context by default.
    axes: which mesh axes split batch, tokens and heads; those of the rules in
      use (`sharding.use`) by default.

  Raises:
    UserError: shapes or types that do not belong together, an unknown
      implementation, or one that does not run on this platform.
  """
  _check(q_BLNK, k_BSNK, v_BSNK, mask_BS)
  if implementation == 'plain':
    return xla_attention(q_BLNK, k_BSNK, v_BSNK, mask_BS)
  mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  on = platform(mesh)
  if implementation == 'auto':
    (_, L, _, K), S = q_BLNK.shape, k_BSNK.shape[1]
    implementation = choose(on, L, S, K, q_BLNK.dtype)
  kernel = _kernel(implementation, on, q_BLNK)
  # Inside a caller's shard_map the arrays are already those of one device.
  if mesh.size <= 1 or AxisType.Manual in mesh.axis_types:
    return kernel(q_BLNK, k_BSNK, v_BSNK, mask_BS)
  if axes is None:
    axes = MeshAxes(*map(mesh_axes, ('batch', 'patches', 'heads')))
  return sharded(kernel, q_BLNK, k_BSNK, v_BSNK, mask_BS, mesh, axes)


def choose(platform: str, L: int, S: int, K: int, dtype) -> str:
  """The kernel for L queries and S keys of size K on a platform.

  GPU: cuDNN where it takes the type and head size. Else XLA while the scores
  are few; from LONG_TPU on splash on TPU, from LONG on blockwise elsewhere.
  Splash is JAX's kernel and runs on TPUs everywhere; `flash` moves fewer bytes
  for heads below 128 but has never run on one, so it has to be asked for.
  """
  if platform == 'gpu' and cudnn.takes(dtype, K):
    return 'cudnn'
  if platform == 'tpu':
    return 'xla' if L * S < LONG_TPU * LONG_TPU else 'splash'
  return 'xla' if L * S < LONG * LONG else 'blockwise'


def _kernel(
  implementation: str, platform: str, q_BLNK: Float[Array, 'B L N K']
) -> Callable[..., Float[Array, 'B L N K']]:
  """The kernel of that name, where it runs for these queries."""
  if implementation not in KERNELS:
    raise UserError(
      f'attention implementation {implementation!r} is not known; use one of '
      f'{", ".join(IMPLEMENTATIONS)}.'
    )
  if implementation in ('splash', 'flash') and platform != 'tpu':
    raise UserError(
      f"attention '{implementation}' runs on tpu, not on {platform}: use "
      "'auto'."
    )
  dtype, size = q_BLNK.dtype, q_BLNK.shape[-1]
  if implementation == 'cudnn' and (
    platform != 'gpu' or not cudnn.takes(dtype, size)
  ):
    raise UserError(
      "attention 'cudnn' takes bfloat16 or float16, with a head size that is "
      'a multiple of 8 and at most 128, on gpu; got '
      f"{dtype.name}, {size}, on {platform}: use 'auto'."
    )
  return KERNELS[implementation]


def _check(q_BLNK, k_BSNK, v_BSNK, mask_BS):
  q, k, v = q_BLNK.shape, k_BSNK.shape, v_BSNK.shape
  if len(q) != 4 or len(k) != 4 or k != v or (q[0], *q[2:]) != (k[0], *k[2:]):
    raise UserError(
      f'attention takes q [B L N K] and k, v [B S N K]; got {q}, {k}, {v}.'
    )
  if not q_BLNK.dtype == k_BSNK.dtype == v_BSNK.dtype:
    raise UserError(
      'attention takes q, k and v of one type; got '
      f'{q_BLNK.dtype}, {k_BSNK.dtype}, {v_BSNK.dtype}.'
    )
  if mask_BS is not None and (
    mask_BS.shape != k[:2] or mask_BS.dtype != jnp.bool_
  ):
    raise UserError(
      f'attention takes a mask [B S] of {k[:2]} booleans, True for keys that '
      f'may be attended; got {mask_BS.dtype} {mask_BS.shape}.'
    )
