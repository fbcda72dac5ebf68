"""Attention by cuDNN's flash kernel: bfloat16 and float16 on NVIDIA GPUs."""

from typing import Literal

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import Array, Bool, Float, Int

DTYPES = (jnp.bfloat16, jnp.float16)


def takes(dtype, head_size: int) -> bool:
  """Whether cuDNN has this kernel on every GPU since Ampere."""
  return dtype in DTYPES and head_size % 8 == 0 and head_size <= 128


def cudnn_attention(
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None = None,
  *,
  implementation: Literal['xla', 'cudnn'] = 'cudnn',
) -> Float[Array, 'B L N K']:
  """softmax(q k / sqrt(K)) v; zeros for a query without any key.

  Args:
    q_BLNK: queries.
    k_BSNK: keys.
    v_BSNK: values.
    mask_BS: True where a key may be attended.
    implementation: of `jax.nn.dot_product_attention`; 'xla' computes the same
      without a GPU.
  """
  if mask_BS is None:
    return jax.nn.dot_product_attention(
      q_BLNK, k_BSNK, v_BSNK, implementation=implementation
    )
  k_BSNK, v_BSNK, lengths_B = first_the_seen(k_BSNK, v_BSNK, mask_BS)
  o_BLNK = jax.nn.dot_product_attention(
    q_BLNK,
    k_BSNK,
    v_BSNK,
    key_value_seq_lengths=jnp.maximum(lengths_B, 1),
    implementation=implementation,
  )
  return jnp.where((lengths_B > 0)[:, None, None, None], o_BLNK, 0)


def first_the_seen(
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'],
) -> tuple[Float[Array, 'B S N K'], Float[Array, 'B S N K'], Int[Array, 'B']]:
  """Keys and values with the unmasked ones in front, and how many those are.

  The order of keys is nothing to attention, and a length costs cuDNN nothing,
  while a mask becomes a bias of [B, N, L, S].
  """
  order_BS = jnp.argsort(~mask_BS, axis=1, stable=True)
  lengths_B = mask_BS.sum(1, dtype=jnp.int32)
  seen_BS = jnp.arange(mask_BS.shape[1]) < lengths_B[:, None]

  def move(x_BSNK):
    x_BSNK = jnp.take_along_axis(x_BSNK, order_BS[:, :, None, None], axis=1)
    # Also stops what cuDNN leaves in the gradients of keys beyond the length.
    return jnp.where(seen_BS[:, :, None, None], x_BSNK, 0)

  return move(k_BSNK), move(v_BSNK), lengths_B
