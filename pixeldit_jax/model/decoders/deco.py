"""DeCo's decoder: every pixel by itself, conditioned by its patch.

arXiv 2511.19365. No pixel sees another one here: attention is left to the patch
tokens, of which a linear layer makes a condition y for each pixel.
"""

import functools

import jax
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import BasisEmbed
from pixeldit_jax.model.decoders.pit_blocks import PixelOutput
from pixeldit_jax.model.layers import LayerNorm, Linear, modulate, zeros
from pixeldit_jax.model.rope import Rotary
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Float


class DeCoEmbed(nnx.Module):
  """`BasisEmbed`, and a second linear layer."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.basis = BasisEmbed(config, rngs=rngs)
    self.proj = _pixel_linear(config, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'B L P C'], grid: tuple[int, int]
  ) -> Float[Array, 'B L P E']:
    return self.proj(self.basis(x, grid))


class PixelCondition(nnx.Module):
  """A vector for each pixel, from the condition of its patch."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.proj = Linear(
      config.width,
      (config.pixels, config.pixel_width),
      ('embed', 'pixels', None),
      init='xavier',
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(self, s: Float[Array, 'B L D']) -> Float[Array, 'B L P E']:
    return self.proj(s)


class DeCoBlock(nnx.Module):
  """z += gate * MLP(modulate(norm z)), modulated by SiLU(y) of the pixel."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    linear = functools.partial(_pixel_linear, config, rngs=rngs)
    self.norm = LayerNorm(config.pixel_width)
    self.up = linear()
    self.down = linear()
    self.adaln = linear(3, kernel_init=zeros)

  def __call__(
    self,
    z: Float[Array, 'B L P E'],
    y: Float[Array, 'B L P E'],
    rotary: Rotary | None = None,
  ) -> Float[Array, 'B L P E']:
    del rotary
    shift, scale, gate = self.adaln.split_outputs(jax.nn.silu(y))
    h = modulate(self.norm(z), shift, scale)
    z += gate * self.down(jax.nn.silu(self.up(h)))
    return constrain(z, 'batch', 'patches', None, None)


class DeCoOutput(PixelOutput):
  """`PixelOutput` with a LayerNorm without weights."""

  @staticmethod
  def make_norm(config: ModelConfig) -> nnx.Module:
    """The norm before the linear layer."""
    return LayerNorm(config.pixel_width, affine=False)


def _pixel_linear(
  config: ModelConfig, vectors: int = 0, *, rngs: nnx.Rngs, **more
) -> Linear:
  """From a pixel token to another, or to several ('vectors')."""
  width = config.pixel_width
  outputs = (vectors, width) if vectors else width
  axes = (None,) * (3 if vectors else 2)
  return Linear(
    width, outputs, axes, init='xavier', dtype=config.dtype, rngs=rngs, **more
  )
