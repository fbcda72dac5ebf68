"""Pixel tokens of DeCo (arXiv 2511.19365) and PixNerd (2507.23268)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear
from pixeldit_jax.typing import Array, Float

FREQUENCIES = 8  # along each side of a patch


def cosine_basis(patch: int) -> Float[np.ndarray, 'P 64']:
  """Products of cosines over a patch, the high frequencies damped.

  cos(pi u f_i) cos(pi v f_j) / (1 + f_i f_j) at index 8 i + j, where the column
  u and the row v go from 0 to 1 over the pixels of a patch, and f_k = 8 k / 7.
  """
  f = np.arange(FREQUENCIES) * FREQUENCIES / (FREQUENCIES - 1)
  waves = np.cos(np.pi * np.linspace(0, 1, patch)[:, None] * f)
  damping = 1 / (1 + np.outer(f, f))
  basis = np.einsum('ui,vj,ij->vuij', waves, waves, damping)
  return basis.reshape(patch**2, FREQUENCIES**2).astype(np.float32)


class BasisEmbed(nnx.Module):
  """A linear layer of the channels of a pixel and the basis at its position.

  The position is that inside the patch: all patches have the same basis.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.proj = Linear(
      config.in_channels + FREQUENCIES**2,
      config.pixel_width,
      (None, None),
      dtype=config.dtype,
      rngs=rngs,
    )
    self.channels = config.in_channels
    self.patch = config.patch_size

  def __call__(
    self, x: Float[Array, 'B L P C'], grid: tuple[int, int]
  ) -> Float[Array, 'B L P E']:
    # As two products: what the basis adds is the same for every patch, and the
    # 64 values need not be written next to each pixel.
    kernel = self.proj.kernel[...].astype(self.proj.dtype)
    bias = self.proj.bias[...].astype(self.proj.dtype)
    basis = jnp.asarray(cosine_basis(self.patch), self.proj.dtype)
    positions_PE = basis @ kernel[self.channels :] + bias
    return x @ kernel[: self.channels] + positions_PE
