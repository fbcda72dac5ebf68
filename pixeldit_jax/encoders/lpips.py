"""LPIPS (arXiv 1801.03924): how different two images look, by VGG's features.

  sum over stages of mean over pixels of w . (f(x) / |f(x)| - f(y) / |f(y)|)^2

f are the outputs of the stages of VGG-16 (1409.1556), before each pooling.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import matmul_precision
from pixeldit_jax.typing import Array, Float

# Of images in [-1, 1], as the public code has them.
MEAN = np.array([-0.030, -0.088, -0.188], np.float32)
STD = np.array([0.458, 0.448, 0.450], np.float32)


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
  """A VGG. The defaults are those of VGG-16.

  Attributes:
    widths: channels of each stage; there is a pooling between two.
    depths: convolutions of each stage.
    dtype: of the convolutions; what is summed is float32.
  """

  widths: tuple[int, ...] = (64, 128, 256, 512, 512)
  depths: tuple[int, ...] = (2, 2, 3, 3, 3)
  dtype: str = 'float32'


class Convolution(nnx.Module):
  """3x3 with a bias, then ReLU."""

  def __init__(self, inputs: int, outputs: int, dtype: str, *, rngs: nnx.Rngs):
    init = jax.nn.initializers.he_normal()
    kernel = init(rngs.params(), (3, 3, inputs, outputs), jnp.float32)
    self.dtype = dtype
    self.kernel = nnx.Param(kernel, axes=(None,) * 4)
    self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32), axes=(None,))

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W c']:
    x = jax.lax.conv_general_dilated(
      x,
      self.kernel[...].astype(self.dtype),
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return jax.nn.relu(x + self.bias[...].astype(self.dtype))


class LPIPS(nnx.Module):
  """The distance of two batches of images."""

  def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
    self.config = config
    inputs = 3
    for i, (width, depth) in enumerate(zip(config.widths, config.depths)):
      for k in range(depth):
        layer = Convolution(inputs, width, config.dtype, rngs=rngs)
        setattr(self, f'conv{i}_{k}', layer)
        inputs = width
      weight = jnp.full(width, 1 / width, jnp.float32)
      setattr(self, f'weight{i}', nnx.Param(weight, axes=(None,)))

  def __call__(
    self, x: Float[Array, 'B H W 3'], y: Float[Array, 'B H W 3']
  ) -> Float[Array, 'B']:
    """Of each pair; 0 where they are equal.

    Args:
      x, y: images, data in [-1, 1].

    Raises:
      UserError: sides that are pooled away.
    """
    stages = len(self.config.widths)
    if min(x.shape[1:3]) < 2 ** (stages - 1):
      raise UserError(
        f'images of {x.shape[1]} x {x.shape[2]}: LPIPS halves them '
        f'{stages - 1} times; give sides of {2 ** (stages - 1)} or more.'
      )
    with matmul_precision(self.config.dtype):
      total = jnp.zeros(len(x), jnp.float32)
      for i, (f, g) in enumerate(zip(self._features(x), self._features(y))):
        weight = getattr(self, f'weight{i}')[...]
        distance = jnp.sum(weight * (_unit(f) - _unit(g)) ** 2, -1)
        total += jnp.mean(distance, (1, 2))
    return total

  def _features(self, x):
    x = ((x - MEAN) / STD).astype(self.config.dtype)
    found = []
    for i, depth in enumerate(self.config.depths):
      if i:
        x = nnx.max_pool(x, (2, 2), (2, 2))
      for k in range(depth):
        x = getattr(self, f'conv{i}_{k}')(x)
      found.append(x)
    return found


def _unit(x):
  """Each pixel's features over their length, float32; 0 stays 0."""
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-20))
