"""PixelDiT's pixel path: pixel-wise AdaLN and pixel token compaction.

PixelDiT, sections 3.2 (pixel-wise AdaLN) and 3.3 (compaction). Pixel tokens are
in the order of `embed.patchify`: patch after patch, row by row inside each, so
that a share of the patches is also a share of the pixels.
"""

import functools

from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import patchify, sincos_2d
from pixeldit_jax.model.layers import (
  Linear,
  PixelMLP,
  make_norm,
  modulate,
  modulation_linear,
  zeros,
)
from pixeldit_jax.model.rope import Rotary, rotary_2d
from pixeldit_jax.model.self_attention import SelfAttention
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Float


class PixelEmbed(nnx.Module):
  """One token from each pixel, with its position in the image added."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.proj = Linear(
      config.in_channels,
      config.pixel_width,
      (None, None),
      dtype=config.dtype,
      rngs=rngs,
    )
    self.patch = config.patch_size

  def __call__(
    self, x: Float[Array, 'B L P C'], grid: tuple[int, int]
  ) -> Float[Array, 'B L P E']:
    z = self.proj(x)
    rows, columns = (n * self.patch for n in grid)
    positions = sincos_2d(rows, columns, z.shape[-1])[None]
    return z + patchify(positions, self.patch).astype(z.dtype)


class PixelAttention(nnx.Module):
  """Attention across the image, of compacted pixel tokens.

  With 'patch' the P pixel tokens of a patch become one of width A, those attend
  to each other, and each returns to its P pixels: attention of pixels at the
  cost of patches. With 'channel' and 'full' every pixel token goes to width A
  and back by itself, and all L*P of them attend to each other.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width, heads = config.pixel_attention_size
    inputs: tuple[int, ...] = (config.pixel_width,)
    axes: tuple[str | None, ...] = (None,)
    if config.pixel_attention == 'patch':
      inputs, axes = (config.pixels, *inputs), ('pixels', *axes)
    linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
    self.compact = linear(inputs, width, (*axes, 'embed'))
    self.attn = SelfAttention(config, width, heads, rngs=rngs)
    self.expand = linear(width, inputs, ('embed', *axes))

  def __call__(
    self, z: Float[Array, 'B L P E'], rotary: Rotary | None
  ) -> Float[Array, 'B L P E']:
    h = self.compact(z)  # [B, L, A] or [B, L, P, A]
    tokens = h.reshape(h.shape[0], -1, h.shape[-1])  # [B, L or L*P, A]
    return self.expand(self.attn(tokens, rotary).reshape(h.shape))


def pixel_rotary(config: ModelConfig, grid: tuple[int, int]) -> Rotary:
  """Rotary tables of the tokens of `PixelAttention`, in their order.

  Args:
    config: its `pixel_attention` decides whether patches or pixels are tokens.
    grid: patches down and across.
  """
  width, heads = config.pixel_attention_size
  if config.pixel_attention == 'patch':
    return rotary_2d(*grid, width // heads, config.rotary)
  rows, columns = (n * config.patch_size for n in grid)

  def arrange(table):
    image = table.reshape(1, rows, columns, -1)
    table = patchify(image, config.patch_size).reshape(table.shape)
    return constrain(table, 'patches', None)

  cos, sin = rotary_2d(rows, columns, width // heads, config.rotary)
  return arrange(cos), arrange(sin)


def modulation_vectors(config: ModelConfig) -> int:
  """How many vectors modulate a pixel token in one block."""
  for_each_layer = 2 if config.modulation == 'post' else 3
  return for_each_layer * (1 if config.pixel_attention == 'none' else 2)


class PixelBlock(nnx.Module):
  """Modulated attention and perceptron on pixel tokens.

  The condition is one vector for each patch (or image: 'global'); one linear
  layer makes of it the modulation of every pixel (or patch: 'patch').
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.post = config.modulation == 'post'
    self.attends = config.pixel_attention != 'none'
    pixelwise = config.pixel_adaln == 'pixel'
    outputs = (
      modulation_vectors(config),
      config.pixels if pixelwise else 1,
      config.pixel_width,
    )
    if self.attends:
      self.norm1 = make_norm(config, config.pixel_width)
      self.attn = PixelAttention(config, rngs=rngs)
    self.norm2 = make_norm(config, config.pixel_width)
    self.mlp = PixelMLP(config, rngs=rngs)
    axes = (None, 'pixels' if pixelwise else None, None)
    self.adaln = modulation_linear(config, outputs, axes, rngs=rngs)

  def __call__(
    self,
    z: Float[Array, 'B L P E'],
    s: Float[Array, 'B #L D'],
    rotary: Rotary | None,
  ) -> Float[Array, 'B L P E']:
    m = self.adaln.split_outputs(s)  # each [B, L or 1, P or 1, E]
    if self.attends:
      half = len(m) // 2
      z = self._add(z, self.norm1, lambda h: self.attn(h, rotary), m[:half])
      m = m[half:]
    z = self._add(z, self.norm2, self.mlp, m)
    return constrain(z, 'batch', 'patches', None, None)

  def _add(self, z, norm, layer, m):
    """z + modulated layer(norm z); m is its share of the modulation."""
    if self.post:
      scale, shift = m
      return z + modulate(layer(norm(z)), shift, scale)
    shift, scale, gate = m
    return z + gate * layer(modulate(norm(z), shift, scale))


class PixelOutput(nnx.Module):
  """Norm and a linear layer from pixel tokens to velocities; starts at 0."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.norm = self.make_norm(config)
    self.proj = Linear(
      config.pixel_width,
      config.in_channels,
      (None, None),
      kernel_init=zeros,
      bias_init=zeros,
      dtype=config.dtype,
      rngs=rngs,
    )

  @staticmethod
  def make_norm(config: ModelConfig) -> nnx.Module:
    """The norm before the linear layer."""
    return make_norm(config, config.pixel_width)

  def __call__(self, z: Float[Array, '*B P E']) -> Float[Array, '*B P C']:
    return self.proj(self.norm(z))
