"""One linear layer from the token of a patch to its pixels."""

import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import (
  LayerNorm,
  Linear,
  make_norm,
  modulate,
  zeros,
)
from pixeldit_jax.typing import Array, Float


class PatchOutput(nnx.Module):
  """Norm and a linear layer, which starts at zero.

  With `decoder='linear'` the norm is modulated, as in DiT (arXiv 2212.09748)
  and JiT (2511.13720); PixelDiT's ablation with a single level (section 4.3) is
  not.
  """

  def __init__(
    self,
    config: ModelConfig,
    *,
    modulated: bool | None = None,
    rngs: nnx.Rngs,
  ):
    self.norm = make_norm(config, config.width)
    if config.output_norm == 'plain':
      self.norm = LayerNorm(config.width, affine=False)
    linear = config.decoder == 'linear'
    self.modulated = linear if modulated is None else modulated
    if self.modulated:
      self.adaln = Linear(
        config.width,
        (2, config.width),
        ('embed', None, None),
        kernel_init=zeros,
        bias_init=zeros,
        dtype=config.dtype,
        rngs=rngs,
      )
    self.proj = Linear(
      config.width,
      (config.pixels, config.out_channels),
      ('embed', None, None),
      kernel_init=zeros,
      bias_init=zeros,
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(
    self, s: Float[Array, 'B L D'], c: Float[Array, 'B #L D'] | None
  ) -> Float[Array, 'B L P C']:
    """Pixels; c is the condition, of each patch or of all of an image;
    None where nothing is modulated."""
    h = self.norm(s)
    if c is not None and self.modulated:
      shift, scale = jnp.unstack(self.adaln(c), axis=2)
      h = modulate(h, shift, scale)
    return self.proj(h)
