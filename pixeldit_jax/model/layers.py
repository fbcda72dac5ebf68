"""Layers with named axes: linear, norms, SwiGLU and GELU perceptrons."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.bfloat16_product import bfloat16_product
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.quantized_product import QUANTIZED, quantized_product
from pixeldit_jax.sharding import platform
from pixeldit_jax.typing import Array, Float, Key

Initializer = Callable[[Key, Sequence[int], jnp.dtype], jax.Array]

zeros: Initializer = jax.nn.initializers.zeros
normal: Initializer = jax.nn.initializers.normal(0.02)


def uniform(bound: float) -> Initializer:
  """Uniform in [-bound, bound]."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def matmul_precision(dtype: str) -> contextlib.AbstractContextManager[None]:
  """Products of float32 at full precision; of other types as they are.

  TPUs and new GPUs would multiply float32 in fewer bits.
  """
  if dtype == 'float32':
    return jax.default_matmul_precision('float32')
  return contextlib.nullcontext()


LORA = ('lora_a', 'lora_b', 'lora_rows')  # what `model.lora` adds


class Linear(nnx.Module):
  """x @ kernel + bias, over one or several axes at either end.

  The kernel has shape [*inputs, *outputs]: the last axes of x, as many as
  `inputs`, are contracted. Weights are float32, the result is in `dtype`, and
  so is the product, unless `products` names another type.
  Kernel and bias start uniform within 1/sqrt(fan in), the release's default;
  with init='xavier' the kernel within sqrt(6 / (fan in + fan out)), with
  'narrow' normal of 0.32 / sqrt(fan in), the bias 0.
  """

  def __init__(
    self,
    inputs: int | tuple[int, ...],
    outputs: int | tuple[int, ...],
    axes: tuple[str | None, ...],
    *,
    bias: bool = True,
    init: str = 'uniform',
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: str,
    rngs: nnx.Rngs,
  ):
    inputs = (inputs,) if isinstance(inputs, int) else inputs
    outputs = (outputs,) if isinstance(outputs, int) else outputs
    fan_in, fan_out = math.prod(inputs), math.prod(outputs)
    kernel_default = bias_default = uniform(1 / math.sqrt(fan_in))
    if init == 'xavier':
      kernel_default = uniform(math.sqrt(6 / (fan_in + fan_out)))
      bias_default = zeros
    elif init == 'narrow':
      kernel_default = jax.nn.initializers.normal(0.32 / math.sqrt(fan_in))
      bias_default = zeros
    shape = (*inputs, *outputs)
    self.kernel = nnx.Param(
      (kernel_init or kernel_default)(rngs.params(), shape, jnp.float32),
      axes=axes,
      inputs=len(inputs),
    )
    self.has_bias = bias
    if bias:
      self.bias = nnx.Param(
        (bias_init or bias_default)(rngs.params(), outputs, jnp.float32),
        axes=axes[len(inputs) :],
      )
    self.contracted = len(inputs)
    self.dtype = dtype
    self.lora_scale = 0.0
    self.products = 'dtype'  # or as `set_products` has it

  def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
    y = self._product(x.astype(self.dtype), self._kernel())
    if self.has_bias:
      y += self.bias[...].astype(self.dtype)
    return y

  def _kernel(self) -> Float[Array, '...']:
    """The kernel with its adapters added, in float32 as the weights are."""
    kernel = self.kernel[...]
    if self.lora_scale:
      with jax.default_matmul_precision('float32'):
        a, b = getattr(self, LORA[0]), getattr(self, LORA[1])
        low_rank = jnp.tensordot(a[...], b[...], 1)
      kernel = kernel + self.lora_scale * low_rank
    return kernel.astype(self.dtype)

  def split_outputs(self, x: Float[Array, '...']) -> list[Float[Array, '...']]:
    """The outputs for each index of the first output axis.

    Each is a separate product, which a TPU fuses with the use of its result. It
    would copy slices of a joint result: with the six modulations of every pixel
    that was half of the traffic of the pixel path.
    """
    x, kernel = x.astype(self.dtype), self._kernel()
    kernels = _indices(kernel, self.contracted)
    outputs = [self._product(x, k) for k in kernels]
    if self.has_bias:
      biases = _indices(self.bias[...].astype(self.dtype), 0)
      outputs = [y + bias for y, bias in zip(outputs, biases)]
    return outputs

  def _product(
    self, x: Float[Array, '...'], kernel: Float[Array, '...']
  ) -> Float[Array, '...']:
    """x @ kernel over the last axes of x and the first of the kernel.

    For a CPU as a product of matrices: in the backward pass of any other XLA
    moves the entire kernel, element by element, before it multiplies, which
    took a fourth of a step. Elsewhere the axes stay apart, as the mesh splits
    them.
    """
    multiply = _PRODUCTS[self.products]
    axes = self.contracted
    if platform() != 'cpu':
      return multiply(x, kernel, axes)
    outputs = kernel.shape[axes:]
    leading = x.shape[: x.ndim - axes]
    size = math.prod(kernel.shape[:axes])
    y = multiply(x.reshape(*leading, size), kernel.reshape(size, -1), 1)
    return y.reshape(*leading, *outputs)


# By `ModelConfig.products`.
_PRODUCTS: dict[str, Callable[..., jax.Array]] = {
  'dtype': jnp.tensordot,
  'bfloat16': bfloat16_product,
  'fp8': functools.partial(quantized_product, 'fp8'),
  'int8': functools.partial(quantized_product, 'int8'),
}
BLOCKS = ('patch_blocks', 'pixel_blocks')


def linears_of_blocks(model: nnx.Module) -> Iterator[tuple[str, Linear]]:
  """The linear layers of all `BLOCKS` of a network, with their names."""
  for blocks in (getattr(model, name, None) for name in BLOCKS):
    if blocks is not None:
      for path, layer in nnx.iter_graph(blocks):
        if isinstance(layer, Linear):
          yield str(path[-1]), layer


def set_products(model: nnx.Module, products: str) -> None:
  """Has the linear layers of all blocks multiply in a type.

  Those of the modulation are never rounded to 8 bits: what they round to is
  multiplied with every token.
  """
  for name, layer in linears_of_blocks(model):
    if name != 'adaln' or products not in QUANTIZED:
      layer.products = products


def _indices(x: Float[Array, '...'], axis: int) -> list[Float[Array, '...']]:
  """x[..., i, ...] for all i; see `stack.unstack` for why by `split`."""
  parts = jax.lax.split(x, (1,) * x.shape[axis], axis)
  return [part.squeeze(axis) for part in parts]


class RMSNorm(nnx.Module):
  """x / rms(x) * weight over the last axis.

  The norms are ours for two reasons: their weights carry the logical `axes`
  that sharding and conversion read, as those of `Linear`, and the variance of
  `nnx.LayerNorm` is by default mean(x^2) - mean(x)^2, which loses all digits
  where the mean is large (`findings/flax_layer_norm_loses_a_mean.sh`).
  """

  def __init__(self, width: int, eps: float = 1e-6):
    self.weight = nnx.Param(jnp.ones(width, jnp.float32), axes=(None,))
    self.eps = eps

  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    x32 = x.astype(jnp.float32)  # a mean of squares loses too much in bf16
    scale = jax.lax.rsqrt(jnp.mean(x32**2, -1, keepdims=True) + self.eps)
    return (x32 * scale * self.weight[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
  """(x - mean(x)) / std(x) * weight + bias over the last axis.

  Without `affine` there are no weight and bias. See `RMSNorm` for why it is not
  flax's.
  """

  def __init__(self, width: int, eps: float = 1e-6, *, affine: bool = True):
    self.affine = affine
    if affine:
      self.weight = nnx.Param(jnp.ones(width, jnp.float32), axes=(None,))
      self.bias = nnx.Param(jnp.zeros(width, jnp.float32), axes=(None,))
    self.eps = eps

  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    x32 = x.astype(jnp.float32)  # as for RMSNorm
    x32 -= jnp.mean(x32, -1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(x32**2, -1, keepdims=True) + self.eps)
    y = x32 * scale
    if self.affine:
      y = y * self.weight[...] + self.bias[...]
    return y.astype(x.dtype)


def make_norm(config: ModelConfig, width: int) -> RMSNorm | LayerNorm:
  """The norm that `config.norm` names."""
  if config.norm == 'rms':
    return RMSNorm(width)
  return LayerNorm(width, affine=config.norm == 'layer')


def modulate(
  x: Float[Array, '... D'],
  shift: Float[Array, '... D'],
  scale: Float[Array, '... D'],
) -> Float[Array, '... D']:
  """AdaLN: x * (1 + scale) + shift."""
  return x * (1 + scale) + shift


def modulation_linear(
  config: ModelConfig,
  outputs: tuple[int, ...],
  axes: tuple[str | None, ...],
  *,
  init: str = 'uniform',
  rngs: nnx.Rngs,
) -> Linear:
  """The linear layer of AdaLN, from the condition [..., D] to `outputs`.

  It starts at zero, or with `zero_modulation=False` as any other layer.
  """
  start = zeros if config.zero_modulation else None
  return Linear(
    config.width,
    outputs,
    ('embed', *axes),
    init=init,
    kernel_init=start,
    bias_init=start,
    dtype=config.dtype,
    rngs=rngs,
  )


# f(x): zero in place of some values, the others larger by as much.
Dropout = Callable[[jax.Array], jax.Array]


def no_dropout(x: jax.Array) -> jax.Array:
  """Every value stays."""
  return x


def dropout_of(keys: Key, rate: float) -> Dropout:
  """Drops values at a rate, by a key for each example [B].

  An example then loses the same values whatever batch it is computed in.
  """

  def drop(x):
    keep = jax.vmap(
      lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:])
    )
    return jnp.where(keep(keys), x / (1 - rate), 0).astype(x.dtype)

  return drop


class SwiGLU(nnx.Module):
  """w2(SiLU(w1 x) * w3 x); w1 and w3 are one product."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width, hidden = config.width, config.mlp_width
    self.up = Linear(
      width,
      (2, hidden),
      ('embed', None, 'mlp'),
      bias=config.biases,
      init=config.init,
      dtype=config.dtype,
      rngs=rngs,
    )
    self.down = Linear(
      hidden,
      width,
      ('mlp', 'embed'),
      bias=config.biases,
      init=config.init,
      dtype=config.dtype,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[Array, 'B L D'], dropout: Dropout = no_dropout
  ) -> Float[Array, 'B L D']:
    h_BL2F = self.up(x)
    gate_BLF, value_BLF = h_BL2F[:, :, 0], h_BL2F[:, :, 1]
    return self.down(dropout(jax.nn.silu(gate_BLF) * value_BLF))


class GeluMLP(nnx.Module):
  """D -> 4D, tanh GELU, -> D (DiT, arXiv 2212.09748)."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    def linear(inputs, outputs, axes):
      return Linear(
        inputs,
        outputs,
        axes,
        bias=config.biases,
        init=config.init,
        dtype=config.dtype,
        rngs=rngs,
      )

    width, hidden = config.width, config.mlp_width
    self.up = linear(width, hidden, ('embed', 'mlp'))
    self.down = linear(hidden, width, ('mlp', 'embed'))

  def __call__(
    self, x: Float[Array, 'B L D'], dropout: Dropout = no_dropout
  ) -> Float[Array, 'B L D']:
    return self.down(dropout(jax.nn.gelu(self.up(x), approximate=True)))


class PixelMLP(nnx.Module):
  """E -> 4E, exact GELU, -> E, on each pixel token by itself."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width = config.pixel_width
    axes = (None, None)
    dtype = config.dtype
    self.up = Linear(width, 4 * width, axes, dtype=dtype, rngs=rngs)
    self.down = Linear(4 * width, width, axes, dtype=dtype, rngs=rngs)

  def __call__(self, z: Float[Array, 'B L P E']) -> Float[Array, 'B L P E']:
    return self.down(jax.nn.gelu(self.up(z), approximate=False))
