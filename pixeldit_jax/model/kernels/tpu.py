"""The function that the two Pallas kernels for TPU compute, and its padding."""

from collections.abc import Callable

import jax.numpy as jnp

from pixeldit_jax.typing import Array, Bool, Float

LANES = 128  # a TPU register and its memory tiles hold rows of 128
SUBLANES = 16  # bfloat16 rows of a tile


def tpu_attention(
  kernel: Callable[..., Float[Array, 'B L N K']],
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
  *,
  interpret: bool = False,
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v; zeros for a query without any key.

  Args:
    kernel: f(q, k, v, mask, interpret), which pads its arrays itself. It may
      give a query without any key the mean of all values.
    q_BLNK: queries.
    k_BSNK: keys.
    v_BSNK: values.
    mask_BS: True where a key may be attended.
    interpret: run in Pallas interpret mode, slowly, on any platform.
  """
  o_BLNK = kernel(q_BLNK, k_BSNK, v_BSNK, mask_BS, interpret)
  if mask_BS is None:
    return o_BLNK
  return jnp.where(mask_BS.any(1)[:, None, None, None], o_BLNK, 0)


def scaled(
  q_BLNK: Float[Array, 'B L N K'], scale: float
) -> Float[Array, 'B L N K']:
  """Queries times the scale of the scores.

  The product is taken in float32: a bfloat16 scale would be off for all scores
  alike.
  """
  return (q_BLNK.astype(jnp.float32) * scale).astype(q_BLNK.dtype)
