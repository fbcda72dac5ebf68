"""EfficientNet-Lite0: features of ImageNet from a package, without a download.

arXiv 1905.11946 without squeeze and excitation and with ReLU6, as TensorFlow
released it for small devices. Batch norms are folded into the convolutions;
all of it runs in fp32, as for `encoders.inception`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.encoders.inception import PRECISION, Features
from pixeldit_jax.encoders.vision_transformer import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  patch_grid,
)
from pixeldit_jax.images.resize import resize_bicubic
from pixeldit_jax.typing import Array, Float, UInt8

SIDE, WIDTH = 224, 1280
# Repeats, kernel, stride of the first, expansion, channels in and out.
STAGES = (
  (1, 3, 1, 1, 32, 16),
  (2, 3, 2, 6, 16, 24),
  (2, 5, 2, 6, 24, 40),
  (3, 3, 2, 6, 40, 80),
  (3, 5, 1, 6, 80, 112),
  (4, 5, 2, 6, 112, 192),
  (1, 3, 1, 6, 192, 320),
)


PATCH = 16  # pixels; the stages up to here see one, the next see two
_OF_PATCHES = 5  # these stages


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
  """The stages that see patches: the teacher where no DINO is at hand.

  Attributes:
    width: of the features of a patch.
    patch_size: in pixels.
  """

  width: int = STAGES[_OF_PATCHES - 1][-1]
  patch_size: int = PATCH

  def patches(self, height: int, width: int) -> tuple[int, int]:
    """Patches down and across an image.

    Raises:
      UserError: a side that is not a multiple of the patch size.
    """
    return patch_grid('the teacher', self.patch_size, height, width)


def preprocess(
  images: UInt8[Array, 'B H W 3'],
) -> Float[Array, 'B 224 224 3']:
  """Resizes to 224x224, antialiased, and maps 0..255 to -127/128..1."""
  x = images.astype(jnp.float32)
  if x.shape[1:3] != (SIDE, SIDE):
    x = resize_bicubic(x, (SIDE, SIDE), antialias=True)
  return (x - 127) / 128


def _conv(d_in, d_out, kernel=1, stride=1, groups=1, *, rngs) -> nnx.Conv:
  return nnx.Conv(
    d_in,
    d_out,
    (kernel, kernel),
    stride,
    padding='SAME',
    feature_group_count=groups,
    precision=PRECISION,
    kernel_metadata={'axes': (None,) * 4},
    bias_metadata={'axes': (None,)},
    rngs=rngs,
  )


def _blocks(stages: Sequence[tuple[int, ...]], rngs: nnx.Rngs) -> nnx.List:
  return nnx.List(
    InvertedBottleneck(
      d_out if i else d_in,
      d_out,
      kernel,
      1 if i else stride,
      expansion,
      rngs=rngs,
    )
    for repeats, kernel, stride, expansion, d_in, d_out in stages
    for i in range(repeats)
  )


class InvertedBottleneck(nnx.Module):
  """Expand, convolve each channel by itself, project; added where it fits."""

  def __init__(self, d_in, d_out, kernel, stride, expansion, *, rngs):
    hidden = d_in * expansion
    self.expands = expansion > 1
    if self.expands:
      self.expand = _conv(d_in, hidden, rngs=rngs)
    self.depthwise = _conv(hidden, hidden, kernel, stride, hidden, rngs=rngs)
    self.project = _conv(hidden, d_out, rngs=rngs)
    self.adds = stride == 1 and d_in == d_out

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w O']:
    h = jax.nn.relu6(self.expand(x)) if self.expands else x
    h = self.project(jax.nn.relu6(self.depthwise(h)))
    return x + h if self.adds else h


class EfficientNetLite0(nnx.Module):
  """Images to their pooled features, 1,280 wide."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.stem = _conv(3, 32, 3, 2, rngs=rngs)
    self.blocks = _blocks(STAGES, rngs)
    self.head = _conv(320, WIDTH, rngs=rngs)

  def __call__(self, images: UInt8[Array, 'B H W 3']) -> Features:
    return Features(self.features(preprocess(images)))

  def features(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B 1280']:
    """Pooled features of images that are preprocessed."""
    x = jax.nn.relu6(self.stem(x))
    for block in self.blocks:
      x = block(x)
    return jnp.mean(jax.nn.relu6(self.head(x)), (1, 2))


class EfficientNetPatches(nnx.Module):
  """Images to one feature for each patch, in float32."""

  def __init__(self, config: EfficientNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.stem = _conv(3, 32, 3, 2, rngs=rngs)
    self.blocks = _blocks(STAGES[:_OF_PATCHES], rngs)

  def __call__(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B L D']:
    """Features of images that are ImageNet-normalised, as a DINOv2's are.

    Raises:
      UserError: sides that are no multiples of the patch size.
    """
    self.config.patches(*x.shape[1:3])
    x = x.astype(jnp.float32) * np.array(IMAGENET_STD, 'f')
    x = ((x + np.array(IMAGENET_MEAN, 'f')) * 255 - 127) / 128
    x = jax.nn.relu6(self.stem(x))
    for block in self.blocks:
      x = block(x)
    return x.reshape(len(x), -1, self.config.width)


def patch_flops(height: int, width: int) -> int:
  """Operations of `EfficientNetPatches` of one image, 2 for a multiply-add."""
  pixels = height * width / 4  # of the stem's output
  total = pixels * 9 * 3 * 32
  for repeats, kernel, stride, expansion, d_in, d_out in STAGES[:_OF_PATCHES]:
    for i in range(repeats):
      given = d_out if i else d_in
      hidden = given * expansion
      total += pixels * given * hidden * (expansion > 1)
      pixels /= 1 if i else stride**2
      total += pixels * hidden * (kernel**2 + d_out)
  return round(2 * total)
