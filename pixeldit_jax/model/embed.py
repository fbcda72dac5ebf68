"""From pixels, time, label and text to tokens, and back to pixels."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import (
  Initializer,
  Linear,
  make_norm,
  normal,
)
from pixeldit_jax.typing import Array, Float, Int

TIME_FEATURES = 256


def patchify(x: Float[Array, 'B H W C'], patch: int) -> Float[Array, 'B L P C']:
  """Cuts images into patches; patches and the pixels in them row by row.

  A strip is a row of patches of one channel of one image. The strips go last
  in between: a TPU pads the last axis to 128, which would take 8 times the
  memory of an image if that axis were the side of a patch.
  """
  B, H, W, C = x.shape
  across, pixels = W // patch, patch * patch
  x = x.transpose(0, 3, 1, 2).reshape(-1, patch, W)  # [strips, p, W]
  x = x.transpose(1, 2, 0).reshape(patch, across, patch, -1)
  x = x.swapaxes(0, 1).reshape(across, pixels, -1)  # [across, P, strips]
  x_BCLP = x.transpose(2, 0, 1).reshape(B, C, -1, pixels)
  return x_BCLP.transpose(0, 2, 3, 1)


def unpatchify(
  x: Float[Array, 'B L P C'], grid: tuple[int, int]
) -> Float[Array, 'B H W C']:
  """The inverse of `patchify`, given patches down and across."""
  B, _, P, C = x.shape
  patch = math.isqrt(P)
  down, across = grid
  height, width = down * patch, across * patch
  x = x.transpose(0, 3, 1, 2).reshape(-1, across, P)  # [strips, across, P]
  x = x.transpose(1, 2, 0).reshape(across, patch, patch, -1)
  x = x.swapaxes(0, 1).reshape(patch, width, -1)  # [p, W, strips]
  x_BCHW = x.transpose(2, 0, 1).reshape(B, C, height, width)
  return x_BCHW.transpose(0, 2, 3, 1)


def sincos_2d(rows: int, columns: int, width: int) -> Float[Array, 'H W D']:
  """Fixed positions: first half from the column, second half from the row."""
  omega = 10000.0 ** (-jnp.arange(width // 4, dtype=jnp.float32) * 4 / width)

  def encode(n):
    angle = jnp.arange(n, dtype=jnp.float32)[:, None] * omega
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)

  shape = (rows, columns, width // 2)
  across = jnp.broadcast_to(encode(columns)[None], shape)
  down = jnp.broadcast_to(encode(rows)[:, None], shape)
  return jnp.concatenate([across, down], -1)


class PatchEmbed(nnx.Module):
  """One token from all pixels of a patch, by way of a bottleneck if any."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    linear = functools.partial(
      Linear, init='xavier', dtype=config.dtype, rngs=rngs
    )
    inputs: tuple[int, ...] = (config.pixels, config.in_channels)
    self.has_bottleneck = config.bottleneck > 0
    if self.has_bottleneck:
      self.bottleneck = linear(
        inputs,
        config.bottleneck,
        (None, None, None),
        bias=config.bottleneck_bias,
      )
      inputs = (config.bottleneck,)
    self.proj = linear(inputs, config.width, (*(None for _ in inputs), 'embed'))
    self.absolute = config.positions in ('absolute', 'both')

  def __call__(
    self, x: Float[Array, 'B L P C'], grid: tuple[int, int]
  ) -> Float[Array, 'B L D']:
    s = self.proj(self.bottleneck(x) if self.has_bottleneck else x)
    if self.absolute:
      width = s.shape[-1]
      s += sincos_2d(*grid, width).reshape(-1, width).astype(s.dtype)
    return s


class TimeEmbed(nnx.Module):
  """Cosines and sines of time, then a two-layer perceptron.

  Time is t in [0, 1] or, if `config.time` is 'noise', 1000 (1 - t).
  """

  def __init__(
    self,
    config: ModelConfig,
    *,
    kernel_init: Initializer | None = normal,
    rngs: nnx.Rngs,
  ):
    self.time, self.period = config.time, config.time_period
    self.closed = config.time_closed
    linear = functools.partial(
      Linear,
      init=config.init,
      kernel_init=kernel_init,
      dtype=config.dtype,
      rngs=rngs,
    )
    self.up = linear(TIME_FEATURES, config.width, (None, 'embed'))
    self.down = linear(config.width, config.width, ('embed', None))

  def __call__(
    self, t: Float[Array, 'B'] | Int[Array, 'B']
  ) -> Float[Array, 'B D']:
    half = TIME_FEATURES // 2
    k = jnp.arange(half, dtype=jnp.float32)
    frequencies = self.period ** (-k / (half - self.closed))
    time = t.astype(jnp.float32)
    if self.time == 'noise':
      time = 1000 * (1 - time)
    angles = time[:, None] * frequencies
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return self.down(jax.nn.silu(self.up(features)))


class ClassEmbed(nnx.Module):
  """A table of labels; the last row stands for no class."""

  lora_rows: nnx.Param  # of `lora.add_adapters`

  def __init__(
    self,
    config: ModelConfig,
    *,
    init: Initializer = normal,
    rngs: nnx.Rngs,
  ):
    shape = (config.num_classes + 1, config.width)
    self.table = nnx.Param(
      init(rngs.params(), shape, jnp.float32), axes=(None, 'embed')
    )
    self.has_added_rows = False
    self.dtype = config.dtype

  def __call__(self, y: Int[Array, 'B']) -> Float[Array, 'B D']:
    table = self.table[...]
    if self.has_added_rows:
      table += self.lora_rows[...]
    return table.astype(self.dtype)[y]


class ContextEmbed(nnx.Module):
  """Tokens of the class, with learned positions (JiT, arXiv 2511.13720)."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    shape = (config.context_tokens, config.width)
    self.positions = nnx.Param(
      normal(rngs.params(), shape, jnp.float32), axes=(None, 'embed')
    )

  def __call__(self, y: Float[Array, 'B D']) -> Float[Array, 'B S D']:
    return y[:, None] + self.positions[...].astype(y.dtype)


class TextEmbed(nnx.Module):
  """Text embeddings to the width of the patches; learned positions added."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.proj = Linear(
      config.text_width,
      config.width,
      (None, 'embed'),
      dtype=config.dtype,
      rngs=rngs,
    )
    self.norm = make_norm(config, config.width)
    shape = (config.text_tokens, config.width)
    init = jax.nn.initializers.normal(1.0)
    self.positions = nnx.Param(
      init(rngs.params(), shape, jnp.float32), axes=(None, 'embed')
    )

  def __call__(self, text: Float[Array, 'B T C']) -> Float[Array, 'B T D']:
    T, (most, _) = text.shape[1], self.positions.shape
    if T > most:
      raise UserError(
        f'a text of {T} tokens: the network takes {most} '
        '(model.text_tokens); cut the text.'
      )
    tokens = self.norm(self.proj(text))
    return tokens + self.positions[:T].astype(tokens.dtype)
