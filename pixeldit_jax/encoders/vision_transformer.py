"""Parts that the frozen vision transformers, DINOv2 and DINOv3, share."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import Linear, normal, zeros
from pixeldit_jax.typing import Array, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def linear(
  inputs: int | tuple[int, ...],
  outputs: int | tuple[int, ...],
  axes: tuple[str | None, ...],
  *,
  bias: bool = True,
  dtype: str,
  rngs: nnx.Rngs,
) -> Linear:
  """A linear layer that starts as those of DINO: normal kernel, zero bias."""
  return Linear(
    inputs,
    outputs,
    axes,
    bias=bias,
    kernel_init=normal,
    bias_init=zeros,
    dtype=dtype,
    rngs=rngs,
  )


def patch_embedding(
  patch_size: int, width: int, *, dtype: str, rngs: nnx.Rngs
) -> Linear:
  """The layer from pixels of patches [B, L, P, 3] to tokens [B, L, D]."""
  axes = (None, None, 'embed')
  return linear((patch_size**2, 3), width, axes, dtype=dtype, rngs=rngs)


def learned_tokens(count: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
  """Tokens or positions that are weights [count, D]."""
  value = normal(rngs.params(), (count, width), jnp.float32)
  return nnx.Param(value, axes=(None, 'embed'))


def residual_scale(width: int, start: float) -> nnx.Param:
  """The learned scale [D] of a residual branch."""
  return nnx.Param(jnp.full(width, start, jnp.float32), axes=(None,))


def prepend(
  tokens: Sequence[Float[Array, '_ D']], x: Float[Array, 'B L D']
) -> Float[Array, 'B S D']:
  """Class and register tokens before the patches of every image."""
  first = jnp.concatenate(tokens).astype(x.dtype)
  first = jnp.broadcast_to(first, (x.shape[0], *first.shape))
  return jnp.concatenate([first, x], axis=1)


def patch_grid(
  network: str, patch_size: int, height: int, width: int
) -> tuple[int, int]:
  """Patches down and across an image.

  Raises:
    UserError: a side that is not a multiple of the patch size; it names the
      network.
  """
  p = patch_size
  if height < p or width < p or height % p or width % p:
    raise UserError(
      f'{network} takes images whose sides are multiples of {p}, not '
      f'{height} x {width}: resize them, as teacher_features does.'
    )
  return height // p, width // p
