"""From pixels, time, label and text to tokens, and back to pixels."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear, make_norm, normal, uniform, zeros
from pixeldit_jax.typing import Array, Float, Int

TIME_FEATURES = 256
TIME_MAX_PERIOD = 10.0


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
  """One token from all pixels of a patch."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    fan_in = config.pixels * config.in_channels
    self.proj = Linear(
      (config.pixels, config.in_channels),
      config.width,
      (None, None, 'embed'),
      kernel_init=uniform(math.sqrt(6 / (fan_in + config.width))),  # Xavier
      bias_init=zeros,
      dtype=config.dtype,
      rngs=rngs,
    )
    self.absolute = config.positions == 'absolute'

  def __call__(
    self, x: Float[Array, 'B L P C'], grid: tuple[int, int]
  ) -> Float[Array, 'B L D']:
    s = self.proj(x)
    if self.absolute:
      width = s.shape[-1]
      s += sincos_2d(*grid, width).reshape(-1, width).astype(s.dtype)
    return s


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


class TimeEmbed(nnx.Module):
  """Cosines and sines of time, then a two-layer perceptron.

  Time is t in [0, 1] or, if `config.time` is 'noise', 1000 (1 - t).
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width, dtype = config.width, config.dtype
    self.time = config.time
    self.up = Linear(
      TIME_FEATURES,
      width,
      (None, 'embed'),
      kernel_init=normal,
      dtype=dtype,
      rngs=rngs,
    )
    self.down = Linear(
      width,
      width,
      ('embed', None),
      kernel_init=normal,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, t: Float[Array, 'B']) -> Float[Array, 'B D']:
    half = TIME_FEATURES // 2
    k = jnp.arange(half, dtype=jnp.float32)
    frequencies = TIME_MAX_PERIOD ** (-k / half)
    time = t.astype(jnp.float32)
    if self.time == 'noise':
      time = 1000 * (1 - time)
    angles = time[:, None] * frequencies
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return self.down(jax.nn.silu(self.up(features)))


class ClassEmbed(nnx.Module):
  """A table of labels; the last row stands for no class."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    shape = (config.num_classes + 1, config.width)
    self.table = nnx.Param(
      normal(rngs.params(), shape, jnp.float32), axes=(None, 'embed')
    )
    self.dtype = config.dtype

  def __call__(self, y: Int[Array, 'B']) -> Float[Array, 'B D']:
    return self.table[...].astype(self.dtype)[y]


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


class PixelOutput(nnx.Module):
  """Norm and a linear layer from pixel tokens to velocities; starts at 0."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.norm = make_norm(config, config.pixel_width)
    self.proj = Linear(
      config.pixel_width,
      config.in_channels,
      (None, None),
      kernel_init=zeros,
      bias_init=zeros,
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(self, z: Float[Array, 'B L P E']) -> Float[Array, 'B L P C']:
    return self.proj(self.norm(z))


class PatchOutput(nnx.Module):
  """The single-level ablation's head: all pixels of a patch from its token."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.norm = make_norm(config, config.width)
    self.proj = Linear(
      config.width,
      (config.pixels, config.in_channels),
      ('embed', None, None),
      kernel_init=zeros,
      bias_init=zeros,
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(self, s: Float[Array, 'B L D']) -> Float[Array, 'B L P C']:
    return self.proj(self.norm(s))
