"""ConvNeXt V2 (arXiv 2301.00808): pooled features that images are judged by.

The distance of two images is the sum of squares between their features, as
pixel MeanFlow takes it (arXiv 2601.22158): of images in [-1, 1], not normalised
by ImageNet's mean.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import LayerNorm, Linear, matmul_precision
from pixeldit_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
  """A ConvNeXt V2. The defaults are those of Base.

  Attributes:
    widths: channels of each stage, which halves the sides; the first takes a
      quarter of them.
    depths: blocks of each stage.
    dtype: of the products; norms are float32.
  """

  widths: tuple[int, ...] = (128, 256, 512, 1024)
  depths: tuple[int, ...] = (3, 3, 27, 3)
  dtype: str = 'float32'


def _conv(
  inputs: int,
  outputs: int,
  size: int,
  dtype: str,
  *,
  apart: bool = False,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """Of patches, or of each channel by itself; with a bias."""
  return nnx.Conv(
    inputs,
    outputs,
    (size, size),
    strides=1 if apart else size,
    padding='SAME' if apart else 'VALID',
    feature_group_count=outputs if apart else 1,
    dtype=dtype,
    kernel_metadata={'axes': (None,) * 4},
    bias_metadata={'axes': (None,)},
    rngs=rngs,
  )


class ResponseNorm(nnx.Module):
  """Global response normalisation (section 3): channels compete."""

  def __init__(self, width: int):
    self.weight = nnx.Param(jnp.zeros(width, jnp.float32), axes=(None,))
    self.bias = nnx.Param(jnp.zeros(width, jnp.float32), axes=(None,))

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, (1, 2), keepdims=True)
    some = square > 0  # the gradient of a root at 0 is infinite
    length = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
    share = length / (jnp.mean(length, -1, keepdims=True) + 1e-6)
    scaled = self.weight[...] * (x32 * share) + self.bias[...]
    return (x32 + scaled).astype(x.dtype)


class Block(nnx.Module):
  """Each channel by itself, then a perceptron of each pixel; added."""

  def __init__(self, width: int, dtype: str, *, rngs: nnx.Rngs):
    self.depthwise = _conv(width, width, 7, dtype, apart=True, rngs=rngs)
    self.norm = LayerNorm(width)
    linear = functools.partial(
      Linear, axes=(None, None), dtype=dtype, rngs=rngs
    )
    self.expand = linear(width, 4 * width)
    self.response = ResponseNorm(4 * width)
    self.project = linear(4 * width, width)

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    h = self.expand(self.norm(self.depthwise(x)))
    return x + self.project(self.response(jax.nn.gelu(h, approximate=False)))


class ConvNeXt(nnx.Module):
  """Images in [-1, 1] to their pooled and normalised features."""

  def __init__(self, config: ConvNeXtConfig, *, rngs: nnx.Rngs):
    self.config = config
    inputs = 3
    for i, (width, depth) in enumerate(zip(config.widths, config.depths)):
      size = 2 if i else 4
      layer = _conv(inputs, width, size, config.dtype, rngs=rngs)
      setattr(self, f'patches{i}', layer)
      setattr(self, f'norm{i}', LayerNorm(inputs if i else width))
      for k in range(depth):
        setattr(self, f'block{i}_{k}', Block(width, config.dtype, rngs=rngs))
      inputs = width
    self.norm = LayerNorm(inputs)

  def __call__(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B D']:
    """Pooled features, float32.

    Raises:
      UserError: images smaller than one patch of the last stage.
    """
    least = 2 ** (len(self.config.widths) + 1)
    if min(x.shape[1:3]) < least:
      raise UserError(
        f'images of {x.shape[1]} x {x.shape[2]}: this ConvNeXt sees patches of '
        f'{least}; give sides of {least} or more (perceptual.side=224).'
      )
    with matmul_precision(self.config.dtype):
      x = x.astype(self.config.dtype)
      for i, depth in enumerate(self.config.depths):
        patches, norm = getattr(self, f'patches{i}'), getattr(self, f'norm{i}')
        x = patches(norm(x)) if i else norm(patches(x))
        for k in range(depth):
          x = getattr(self, f'block{i}_{k}')(x)
      return self.norm(jnp.mean(x.astype(jnp.float32), (1, 2)))

  def distance(
    self, x: Float[Array, 'B H W 3'], y: Float[Array, 'B H W 3']
  ) -> Float[Array, 'B']:
    """The sum of squares between the features of each pair."""
    return jnp.sum((self(x) - self(y)) ** 2, -1)
