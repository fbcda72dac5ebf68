"""The FID Inception network: Inception-v3 as TensorFlow released it in 2015.

arXiv 1512.00567, with the details of `inception-2015-12-05` that change FID:
TensorFlow 1's bilinear resize to 299x299, average pools that leave the padding
out of the mean, a max pool instead of an average pool in the last block, and
1,008 logits. Batch norms are folded into the convolutions, so that each layer
is one convolution with a bias. All of it runs in fp32: metrics must not depend
on the accelerator.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.images.resize import tensorflow_matrix
from pixeldit_jax.typing import AnyArray, Array, Float, UInt8

RESIZE = 299
POOLED = 2048
SPATIAL_CHANNELS = 7
SPATIAL = SPATIAL_CHANNELS * 17 * 17
LOGITS = 1008
# TPUs and GPUs would otherwise multiply in bf16 or TF32.
PRECISION = jax.lax.Precision.HIGHEST


class Features(NamedTuple):
  """Outputs of a feature network for a batch; None where it has no such one.

  Attributes:
    pooled: pool_3:0, for FID, KID, precision and recall.
    spatial: mixed_6/conv:0, its first 7 channels in (row, column, channel)
      order, for sFID.
    logits: softmax logits without their bias, for the Inception Score: the ADM
      suite multiplies only by the weights.
  """

  pooled: Float[AnyArray, 'B D']
  spatial: Float[AnyArray, 'B 2023'] | None = None
  logits: Float[AnyArray, 'B 1008'] | None = None


def preprocess(
  images: UInt8[Array, 'B H W 3'],
) -> Float[Array, 'B 299 299 3']:
  """Resizes to 299x299 and maps 0..255 to -1..127/128."""
  _, height, width, _ = images.shape
  x = images.astype(jnp.float32)
  einsum = functools.partial(jnp.einsum, precision=PRECISION)
  if width != RESIZE:
    x = einsum('xw,bhwc->bhxc', tensorflow_matrix(width, RESIZE), x)
  if height != RESIZE:
    x = einsum('yh,bhxc->byxc', tensorflow_matrix(height, RESIZE), x)
  return (x - 128) / 128


class ConvRelu(nnx.Module):
  """A convolution with the batch norm folded in, then ReLU."""

  def __init__(self, d_in, d_out, kernel, stride=1, padding='SAME', *, rngs):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    # Without padding XLA takes 2.3 to 4.6 times as long on CPUs: a row and a
    # column of zeros, and what sees them is cut off.
    # findings/xla_cpu_convolution_without_padding_is_slow.sh
    self.valid = padding == 'VALID'
    self.conv = nnx.Conv(
      d_in,
      d_out,
      kernel,
      stride,
      padding=[(0, 1), (0, 1)] if self.valid else padding,
      precision=PRECISION,
      rngs=rngs,
    )

  def __call__(self, x):
    return jax.nn.relu(self._convolve(x))

  def of_means(self, x):
    """Of 3x3 means, after the kernel of 1x1, which leaves fewer channels."""
    return jax.nn.relu(_average(self._convolve(x)))

  def _convolve(self, x):
    out = self.conv(x)
    if not self.valid:
      return out
    size, stride = self.conv.kernel_size[0], self.conv.strides
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    return out[:, :rows, :columns]


def _neighbours(x, axis, combine, edge, stride=1, padded=True):
  """Combines each three rows or columns; quicker on CPUs than XLA's windows."""
  if padded:
    widths = [(int(a == axis),) * 2 for a in range(x.ndim)]
    x = jnp.pad(x, widths, constant_values=edge)
  ends = x.shape[axis] - 2
  first, middle, last = (
    jax.lax.slice_in_dim(x, k, k + ends, stride, axis) for k in range(3)
  )
  return combine(combine(first, middle), last)


def _average(x):
  """3x3 mean of the neighbours that exist: padding does not count."""
  _, height, width, _ = x.shape
  x = _neighbours(_neighbours(x, 1, jnp.add, 0.0), 2, jnp.add, 0.0)
  return x / (_counts(height)[:, None, None] * _counts(width)[:, None])


def _counts(size):
  counts = np.full(size, 3, np.float32)
  counts[[0, -1]] = 2
  return counts


def _largest(x, stride=1, padded=True):
  """3x3 maximum, of the pixels that exist."""
  options = jnp.maximum, -jnp.inf, stride, padded
  return _neighbours(_neighbours(x, 1, *options), 2, *options)


def _halve(x):
  return _largest(x, stride=2, padded=False)


def _join(*branches):
  return jnp.concatenate(branches, axis=-1)


class MixedA(nnx.Module):
  """35x35 block: 1x1, 5x5, double 3x3 and pooled branches."""

  def __init__(self, d_in, d_pool, *, rngs):
    conv = functools.partial(ConvRelu, rngs=rngs)
    self.branch1x1 = conv(d_in, 64, 1)
    self.branch5x5_1 = conv(d_in, 48, 1)
    self.branch5x5_2 = conv(48, 64, 5)
    self.branch3x3dbl_1 = conv(d_in, 64, 1)
    self.branch3x3dbl_2 = conv(64, 96, 3)
    self.branch3x3dbl_3 = conv(96, 96, 3)
    self.branch_pool = conv(d_in, d_pool, 1)

  def __call__(self, x):
    double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    return _join(
      self.branch1x1(x),
      self.branch5x5_2(self.branch5x5_1(x)),
      self.branch3x3dbl_3(double),
      self.branch_pool.of_means(x),
    )


class MixedB(nnx.Module):
  """35x35 to 17x17."""

  def __init__(self, d_in, *, rngs):
    conv = functools.partial(ConvRelu, rngs=rngs)
    self.branch3x3 = conv(d_in, 384, 3, 2, 'VALID')
    self.branch3x3dbl_1 = conv(d_in, 64, 1)
    self.branch3x3dbl_2 = conv(64, 96, 3)
    self.branch3x3dbl_3 = conv(96, 96, 3, 2, 'VALID')

  def __call__(self, x):
    double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    return _join(self.branch3x3(x), self.branch3x3dbl_3(double), _halve(x))


class MixedC(nnx.Module):
  """17x17 block with 7x7 kernels split into rows and columns."""

  def __init__(self, d_in, d_mid, *, rngs):
    conv = functools.partial(ConvRelu, rngs=rngs)
    self.branch1x1 = conv(d_in, 192, 1)
    self.branch7x7_1 = conv(d_in, d_mid, 1)
    self.branch7x7_2 = conv(d_mid, d_mid, (1, 7))
    self.branch7x7_3 = conv(d_mid, 192, (7, 1))
    self.branch7x7dbl_1 = conv(d_in, d_mid, 1)
    self.branch7x7dbl_2 = conv(d_mid, d_mid, (7, 1))
    self.branch7x7dbl_3 = conv(d_mid, d_mid, (1, 7))
    self.branch7x7dbl_4 = conv(d_mid, d_mid, (7, 1))
    self.branch7x7dbl_5 = conv(d_mid, 192, (1, 7))
    self.branch_pool = conv(d_in, 192, 1)

  def __call__(self, x):
    double = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
    double = self.branch7x7dbl_4(self.branch7x7dbl_3(double))
    return _join(
      self.branch1x1(x),
      self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
      self.branch7x7dbl_5(double),
      self.branch_pool.of_means(x),
    )


class MixedD(nnx.Module):
  """17x17 to 8x8."""

  def __init__(self, d_in, *, rngs):
    conv = functools.partial(ConvRelu, rngs=rngs)
    self.branch3x3_1 = conv(d_in, 192, 1)
    self.branch3x3_2 = conv(192, 320, 3, 2, 'VALID')
    self.branch7x7x3_1 = conv(d_in, 192, 1)
    self.branch7x7x3_2 = conv(192, 192, (1, 7))
    self.branch7x7x3_3 = conv(192, 192, (7, 1))
    self.branch7x7x3_4 = conv(192, 192, 3, 2, 'VALID')

  def __call__(self, x):
    seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
    return _join(
      self.branch3x3_2(self.branch3x3_1(x)),
      self.branch7x7x3_4(self.branch7x7x3_3(seven)),
      _halve(x),
    )


class MixedE(nnx.Module):
  """8x8 block; the last of the two pools by maximum."""

  def __init__(self, d_in, pool, *, rngs):
    conv = functools.partial(ConvRelu, rngs=rngs)
    self.pool = pool
    self.branch1x1 = conv(d_in, 320, 1)
    self.branch3x3_1 = conv(d_in, 384, 1)
    self.branch3x3_2a = conv(384, 384, (1, 3))
    self.branch3x3_2b = conv(384, 384, (3, 1))
    self.branch3x3dbl_1 = conv(d_in, 448, 1)
    self.branch3x3dbl_2 = conv(448, 384, 3)
    self.branch3x3dbl_3a = conv(384, 384, (1, 3))
    self.branch3x3dbl_3b = conv(384, 384, (3, 1))
    self.branch_pool = conv(d_in, 192, 1)

  def __call__(self, x):
    single = self.branch3x3_1(x)
    double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
    if self.pool == 'max':
      pooled = self.branch_pool(_largest(x))
    else:
      pooled = self.branch_pool.of_means(x)
    return _join(
      self.branch1x1(x),
      self.branch3x3_2a(single),
      self.branch3x3_2b(single),
      self.branch3x3dbl_3a(double),
      self.branch3x3dbl_3b(double),
      pooled,
    )


class Inception(nnx.Module):
  """Images to features; layers are named as in the usual weight files."""

  def __init__(self, *, rngs: nnx.Rngs):
    conv = functools.partial(ConvRelu, padding='VALID', rngs=rngs)
    self.conv2d_1a_3x3 = conv(3, 32, 3, 2)
    self.conv2d_2a_3x3 = conv(32, 32, 3)
    self.conv2d_2b_3x3 = conv(32, 64, 3, padding='SAME')
    self.conv2d_3b_1x1 = conv(64, 80, 1)
    self.conv2d_4a_3x3 = conv(80, 192, 3)
    self.mixed_5b = MixedA(192, 32, rngs=rngs)
    self.mixed_5c = MixedA(256, 64, rngs=rngs)
    self.mixed_5d = MixedA(288, 64, rngs=rngs)
    self.mixed_6a = MixedB(288, rngs=rngs)
    self.mixed_6b = MixedC(768, 128, rngs=rngs)
    self.mixed_6c = MixedC(768, 160, rngs=rngs)
    self.mixed_6d = MixedC(768, 160, rngs=rngs)
    self.mixed_6e = MixedC(768, 192, rngs=rngs)
    self.mixed_7a = MixedD(768, rngs=rngs)
    self.mixed_7b = MixedE(1280, 'average', rngs=rngs)
    self.mixed_7c = MixedE(2048, 'max', rngs=rngs)
    self.fc = nnx.Linear(
      POOLED, LOGITS, use_bias=False, precision=PRECISION, rngs=rngs
    )

  def __call__(self, images: UInt8[Array, 'B H W 3']) -> Features:
    x = self.conv2d_2a_3x3(self.conv2d_1a_3x3(preprocess(images)))
    x = _halve(self.conv2d_2b_3x3(x))
    x = _halve(self.conv2d_4a_3x3(self.conv2d_3b_1x1(x)))
    x = self.mixed_5d(self.mixed_5c(self.mixed_5b(x)))
    x = self.mixed_6c(self.mixed_6b(self.mixed_6a(x)))
    # mixed_6 of the TensorFlow graph is Mixed_6d here, and its conv the 1x1
    # branch after ReLU. The compiler shares it with the block below.
    spatial = self.mixed_6d.branch1x1(x)[..., :SPATIAL_CHANNELS]
    x = self.mixed_6e(self.mixed_6d(x))
    x = self.mixed_7c(self.mixed_7b(self.mixed_7a(x)))
    pooled = x.mean(axis=(1, 2))
    return Features(pooled, spatial.reshape(len(images), -1), self.fc(pooled))
