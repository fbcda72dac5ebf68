"""The autoencoder of Stable Diffusion's latents (arXiv 2112.10752).

Images [B, H, W, 3] in [-1, 1] to a Gaussian of latents [B, H/8, W/8, 4], and
back. Modules are named as in diffusers' files (class AutoencoderKL).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import matmul_precision
from pixeldit_jax.typing import Array, Float

LOG_VARIANCE = (-30.0, 20.0)  # what it is clamped to


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
  """Sizes of an autoencoder, by default those of sd-vae-ft-ema.

  Attributes:
    channels: of images.
    latent_channels: of latents.
    widths: channels of each level, the finest first; each but the last halves.
    blocks: residual blocks of a level of the encoder; the decoder has one more.
    groups: of the group norms; they divide every width.
    scale: times a latent is what networks are trained on.
    dtype: of activations and products; parameters are float32.
  """

  channels: int = 3
  latent_channels: int = 4
  widths: tuple[int, ...] = (128, 256, 512, 512)
  blocks: int = 2
  groups: int = 32
  scale: float = 0.18215
  dtype: str = 'float32'

  def __post_init__(self):
    if self.groups < 1 or any(width % self.groups for width in self.widths):
      raise UserError(
        f'groups={self.groups} does not divide the widths {self.widths} of the '
        'autoencoder: give groups (norm_num_groups of its config.json).'
      )

  @property
  def factor(self) -> int:
    """Pixels of a side of an image for one of its latents'."""
    return 2 ** (len(self.widths) - 1)


class Posterior(NamedTuple):
  """The Gaussian of an image's latents, independent in each entry.

  Attributes:
    mean: [B, h, w, 4], what is decoded where nothing is drawn.
    logvar: the log of the variance, clamped.
  """

  mean: Float[Array, 'B h w C']
  logvar: Float[Array, 'B h w C']

  @property
  def std(self) -> Float[Array, 'B h w C']:
    return jnp.exp(self.logvar / 2)

  def sample(self, noise: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    """One draw, of standard normal noise."""
    return self.mean + self.std * noise

  def kl(self) -> Float[Array, 'B']:
    """The divergence from a standard normal, summed over entries, in nats."""
    terms = self.mean**2 + jnp.exp(self.logvar) - 1 - self.logvar
    return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


def posterior(moments: Float[Array, 'B h w M']) -> Posterior:
  """Means, then the logs of variances, M = 2C; the latter are clamped."""
  mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
  return Posterior(mean, jnp.clip(logvar, *LOG_VARIANCE))


class _Make(NamedTuple):
  """Layers of one configuration."""

  config: AutoencoderConfig
  rngs: nnx.Rngs

  def conv(self, inputs, outputs, side=3, stride=1, padding=None) -> nnx.Conv:
    edge = side // 2 if padding is None else padding
    return nnx.Conv(
      inputs,
      outputs,
      (side, side),
      stride,
      padding=edge,
      dtype=jnp.dtype(self.config.dtype),
      rngs=self.rngs,
    )

  def linear(self, width) -> nnx.Linear:
    dtype = jnp.dtype(self.config.dtype)
    return nnx.Linear(width, width, dtype=dtype, rngs=self.rngs)

  def norm(self, width) -> nnx.GroupNorm:
    groups = self.config.groups
    return nnx.GroupNorm(width, groups, epsilon=1e-6, rngs=self.rngs)


class Residual(nnx.Module):
  """x + conv(SiLU(norm(conv(SiLU(norm x))))); by 1x1 where widths differ."""

  def __init__(self, make: _Make, inputs: int, outputs: int):
    self.norm1, self.conv1 = make.norm(inputs), make.conv(inputs, outputs)
    self.norm2, self.conv2 = make.norm(outputs), make.conv(outputs, outputs)
    self.widens = inputs != outputs
    if self.widens:
      self.conv_shortcut = make.conv(inputs, outputs, 1)

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W D']:
    h = self.conv1(jax.nn.silu(self.norm1(x)))
    h = self.conv2(jax.nn.silu(self.norm2(h)))
    return (self.conv_shortcut(x) if self.widens else x) + h


class Attention(nnx.Module):
  """One head over all positions, added to its input."""

  def __init__(self, make: _Make, width: int):
    self.group_norm = make.norm(width)
    self.to_q, self.to_k, self.to_v = (make.linear(width) for _ in range(3))
    self.to_out = nnx.List([make.linear(width)])

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    B, H, W, C = x.shape
    h_BLC = self.group_norm(x).reshape(B, H * W, C)
    q, k, v = (f(h_BLC)[:, :, None] for f in (self.to_q, self.to_k, self.to_v))
    h_BLC = jax.nn.dot_product_attention(q, k, v).reshape(B, H * W, C)
    return x + self.to_out[0](h_BLC).reshape(x.shape)


class Resample(nnx.Module):
  """A convolution that halves both sides, or doubles them."""

  def __init__(self, make: _Make, width: int, *, doubles: bool):
    self.doubles = doubles
    stride, padding = (1, 1) if doubles else (2, 0)
    self.conv = make.conv(width, width, 3, stride, padding)

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w C']:
    if self.doubles:
      return self.conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
    return self.conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))


class Level(nnx.Module):
  """Residual blocks of one width, then perhaps a change of size."""

  def __init__(
    self, make: _Make, inputs: int, outputs: int, blocks: int, after: str
  ):
    widths = [inputs] + [outputs] * blocks
    self.resnets = nnx.List(
      [Residual(make, *pair) for pair in zip(widths, widths[1:])]
    )
    self.after = after
    if after:
      resample = Resample(make, outputs, doubles=after == 'upsamplers')
      setattr(self, after, nnx.List([resample]))

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    for block in self.resnets:
      x = block(x)
    return getattr(self, self.after)[0](x) if self.after else x


class Middle(nnx.Module):
  """Residual, attention, residual."""

  def __init__(self, make: _Make, width: int):
    self.resnets = nnx.List([Residual(make, width, width) for _ in range(2)])
    self.attentions = nnx.List([Attention(make, width)])

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nnx.Module):
  """Images to moments."""

  def __init__(self, make: _Make):
    config = make.config
    widths = config.widths
    self.conv_in = make.conv(config.channels, widths[0])
    inputs = (widths[0], *widths)
    last = len(widths) - 1
    self.down_blocks = nnx.List(
      [
        Level(
          make,
          inputs[i],
          width,
          config.blocks,
          'downsamplers' if i < last else '',
        )
        for i, width in enumerate(widths)
      ]
    )
    self.mid_block = Middle(make, widths[-1])
    self.conv_norm_out = make.norm(widths[-1])
    self.conv_out = make.conv(widths[-1], 2 * config.latent_channels)

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w M']:
    x = self.conv_in(x)
    for level in self.down_blocks:
      x = level(x)
    x = self.conv_norm_out(self.mid_block(x))
    return self.conv_out(jax.nn.silu(x))


class Decoder(nnx.Module):
  """Latents to images."""

  def __init__(self, make: _Make):
    config = make.config
    widths = config.widths[::-1]
    self.conv_in = make.conv(config.latent_channels, widths[0])
    self.mid_block = Middle(make, widths[0])
    inputs = (widths[0], *widths)
    last = len(widths) - 1
    self.up_blocks = nnx.List(
      [
        Level(
          make,
          inputs[i],
          width,
          config.blocks + 1,
          'upsamplers' if i < last else '',
        )
        for i, width in enumerate(widths)
      ]
    )
    self.conv_norm_out = make.norm(widths[-1])
    self.conv_out = make.conv(widths[-1], config.channels)

  def __call__(self, z: Float[Array, 'B h w C']) -> Float[Array, 'B H W D']:
    z = self.mid_block(self.conv_in(z))
    for level in self.up_blocks:
      z = level(z)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(z)))


class Autoencoder(nnx.Module):
  """Encoder, decoder, and the 1x1 convolutions between them and latents."""

  def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
    self.config = config
    make = _Make(config, rngs)
    self.encoder, self.decoder = Encoder(make), Decoder(make)
    latents = config.latent_channels
    self.quant_conv = make.conv(2 * latents, 2 * latents, 1)
    self.post_quant_conv = make.conv(latents, latents, 1)

  def encode(self, images: Float[Array, 'B H W C']) -> Posterior:
    """The Gaussian of the latents of images in [-1, 1].

    Raises:
      UserError: sides or channels that the network does not take.
    """
    config, (_, height, width, channels) = self.config, images.shape
    if (
      height % config.factor
      or width % config.factor
      or (channels != config.channels)
    ):
      raise UserError(
        f'images of {height} x {width} x {channels}: the autoencoder takes '
        f'{config.channels} channels, and sides that are multiples of '
        f'{config.factor}.'
      )
    with matmul_precision(config.dtype):
      return posterior(self.quant_conv(self.encoder(images)))

  def decode(self, latents: Float[Array, 'B h w C']) -> Float[Array, 'B H W D']:
    """Images, float32, about in [-1, 1], of latents that are not scaled.

    Raises:
      UserError: latents of another number of channels.
    """
    config, channels = self.config, latents.shape[-1]
    if channels != config.latent_channels:
      raise UserError(
        f'latents of {channels} channels: the autoencoder decodes '
        f'{config.latent_channels}; take the one that they were made with.'
      )
    with matmul_precision(config.dtype):
      return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


def abstract_autoencoder(config: AutoencoderConfig) -> Autoencoder:
  """The network with shapes in place of weights: nothing is allocated."""
  return nnx.eval_shape(lambda: Autoencoder(config, rngs=nnx.Rngs(0)))


def autoencoder_flops(config: AutoencoderConfig, side: int) -> tuple[int, int]:
  """Operations to encode and to decode an image, 2 for a multiply-add.

  Args:
    config: sizes of the network.
    side: of the image in pixels.
  """
  graphdef, weights = nnx.split(abstract_autoencoder(config))

  def operations(of: Callable[..., Any], side: int, channels: int) -> int:
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    run = lambda w, x: of(nnx.merge(graphdef, w), x)  # noqa: E731
    return _operations(jax.make_jaxpr(run)(weights, image))

  latents = side // config.factor
  return (
    operations(Autoencoder.encode, side, config.channels),
    operations(Autoencoder.decode, latents, config.latent_channels),
  )


def _operations(program: Any) -> int:
  """Of the products and convolutions of a traced program."""
  total = 0
  for equation in getattr(program, 'jaxpr', program).eqns:
    for inner in equation.params.values():
      if hasattr(inner, 'jaxpr') or hasattr(inner, 'eqns'):
        total += _operations(inner)
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      each = math.prod(shape[axis] for axis in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      kernel, layout = equation.invars[1].aval.shape, equation.params
      out = layout['dimension_numbers'].rhs_spec[0]
      each = math.prod(kernel) // kernel[out]
    else:
      continue
    total += 2 * each * math.prod(equation.outvars[0].aval.shape)
  return total
