"""DINOv2, the frozen teacher of representation alignment (arXiv 2304.07193).

A vision transformer with LayerNorm, biases in all layers, exact GELU, a learned
scale on each residual branch and, optionally, register tokens (2309.16588).
"""

import dataclasses
import functools
import math
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.encoders.convnext import ConvNeXt, ConvNeXtConfig
from pixeldit_jax.encoders.dinov3 import DINOv3, DINOv3Config
from pixeldit_jax.encoders.efficientnet_lite import (
  EfficientNetConfig,
  EfficientNetPatches,
)
from pixeldit_jax.encoders.lpips import LPIPS, LPIPSConfig
from pixeldit_jax.encoders.vision_transformer import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  learned_tokens,
  linear,
  patch_embedding,
  patch_grid,
  prepend,
  residual_scale,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.resize import resize_bicubic
from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.embed import patchify
from pixeldit_jax.model.layers import LayerNorm, matmul_precision
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.typing import Array, Float

SIZES = {
  'S': dict(width=384, depth=12, heads=6),
  'B': dict(width=768, depth=12, heads=12),
  'L': dict(width=1024, depth=24, heads=16),
}


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """A DINOv2. The defaults are those of ViT-B/14 without registers.

  Attributes:
    width: of the tokens.
    depth: blocks.
    heads: attention heads.
    mlp_ratio: hidden width of the MLP over `width`.
    patch_size: side of a patch.
    grid: side of the square of learned positions; the released networks end
      their training at 518 pixels, 37 patches.
    registers: extra tokens; 4 in the released networks that have them.
    position_offset: how positions are read at another grid of n patches. 0,
      as `transformers` does it: the learned grid is stretched to exactly n.
      0.1, as the authors' code does it for networks without registers: the
      step between positions is grid / (n + 0.1), so that they drift by up to
      a tenth of a patch towards one side.
    layer_scale: what the residual scales start from in a random network.
    dtype: of activations and matrix products; norms and softmax are float32.
    scan: blocks as one loop, or unrolled; see `ModelConfig`.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: int = 4
  patch_size: int = 14
  grid: int = 37
  registers: int = 0
  position_offset: float = 0.0
  layer_scale: float = 1.0
  dtype: str = 'bfloat16'
  scan: bool = True

  def __post_init__(self):
    if self.width % self.heads:
      raise UserError(
        f'a teacher of width={self.width} has no {self.heads} equal heads: '
        'give heads that divide it (width / 64 in the released networks).'
      )
    if self.registers and self.position_offset:
      raise UserError(
        f'position_offset={self.position_offset} with {self.registers} '
        'registers: networks with registers were made without it; give 0.'
      )

  @property
  def antialias(self) -> bool:
    """Positions are shrunk with antialiasing where there are registers."""
    return self.registers > 0

  def patches(self, height: int, width: int) -> tuple[int, int]:
    """Patches down and across an image.

    Raises:
      UserError: a side that is not a multiple of the patch size.
    """
    return patch_grid('the teacher', self.patch_size, height, width)


def forward_flops(config: VisionConfig, height: int, width: int) -> int:
  """Operations of one image, 2 for a multiply-add; see `model.cost`."""
  L = math.prod(config.patches(height, width))
  S, D = L + 1 + config.registers, config.width
  mlp = 2 * config.mlp_ratio * D * D
  block = S * (4 * D * D + mlp) + 2 * S * S * D
  return 2 * (L * 3 * config.patch_size**2 * D + config.depth * block)


def sized(size: str, **overrides) -> VisionConfig:
  """The configuration of a released size: S, B or L."""
  if size not in SIZES:
    raise UserError(f'teacher size={size!r}: use one of {tuple(SIZES)}.')
  return VisionConfig(**(SIZES[size] | overrides))


class VisionBlock(nnx.Module):
  """x += ls1 * Attn(norm x); x += ls2 * MLP(norm x)."""

  def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
    width, heads = config.width, config.heads
    head_size, hidden = width // heads, config.mlp_ratio * width

    dense = functools.partial(linear, dtype=config.dtype, rngs=rngs)
    scale = functools.partial(residual_scale, width, config.layer_scale)
    qkv_axes = ('embed', None, 'heads', None)
    self.norm1 = LayerNorm(width)
    self.qkv = dense(width, (3, heads, head_size), qkv_axes)
    self.proj = dense((heads, head_size), width, ('heads', None, 'embed'))
    self.scale1 = scale()
    self.norm2 = LayerNorm(width)
    self.up = dense(width, hidden, ('embed', 'mlp'))
    self.down = dense(hidden, width, ('mlp', 'embed'))
    self.scale2 = scale()

  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    qkv_BL3NK = self.qkv(self.norm1(x))
    h = self.proj(attend(*jnp.unstack(qkv_BL3NK, axis=2)))
    x += self.scale1[...].astype(h.dtype) * h
    h = jax.nn.gelu(self.up(self.norm2(x)), approximate=False)
    h = self.down(h)
    return x + self.scale2[...].astype(h.dtype) * h


class DINOv2(nnx.Module):
  """Images to one feature for each patch ("x_norm_patchtokens")."""

  def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = config.width
    self.patch_embed = patch_embedding(
      config.patch_size, width, dtype=config.dtype, rngs=rngs
    )
    self.class_token = learned_tokens(1, width, rngs)
    # The first is that of the class token.
    self.positions = learned_tokens(1 + config.grid**2, width, rngs)
    if config.registers:
      self.register_tokens = learned_tokens(config.registers, width, rngs)
    self.blocks = stack_blocks(
      lambda rngs: VisionBlock(config, rngs=rngs), config.depth, rngs
    )
    self.norm = LayerNorm(width)

  def __call__(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B L D']:
    """Features of the last layer, normed, in `config.dtype`.

    Args:
      x: images, ImageNet-normalised, sides multiples of the patch size.

    Raises:
      UserError: sides that are not.
    """
    with matmul_precision(self.config.dtype):
      return self._forward(x)

  def _forward(self, x):
    config = self.config
    dtype = jnp.dtype(config.dtype)
    grid = config.patches(*x.shape[1:3])
    positions_LD = self.positions_at(grid).astype(dtype)
    x = self.patch_embed(patchify(x.astype(dtype), config.patch_size))
    x += positions_LD[1:]
    # Positions go to the class token and the patches, not to registers.
    tokens = [self.class_token[...].astype(dtype) + positions_LD[:1]]
    if config.registers:
      tokens.append(self.register_tokens[...].astype(dtype))
    x = prepend(tokens, x)
    x, _ = run_blocks(self.blocks, x, scan=config.scan, remat='none')
    return self.norm(x[:, 1 + config.registers :])

  def positions_at(self, grid: tuple[int, int]) -> Float[Array, 'L D']:
    """Positions of the class token, then of the patches, float32."""
    config = self.config
    positions = self.positions[...].astype(jnp.float32)
    side = config.grid
    if grid == (side, side):
      return positions
    square = positions[1:].reshape(1, side, side, -1)
    resized = resize_bicubic(
      square, grid, antialias=config.antialias, offset=config.position_offset
    )
    return jnp.concatenate([positions[:1], resized.reshape(-1, config.width)])


# One that gives a feature for each patch of an image, and what makes it.
PatchConfig = VisionConfig | DINOv3Config | EfficientNetConfig
PatchNetwork = DINOv2 | DINOv3 | EfficientNetPatches


@overload
def make_network(config: PatchConfig, *, rngs: nnx.Rngs) -> PatchNetwork: ...
@overload
def make_network(config: LPIPSConfig, *, rngs: nnx.Rngs) -> LPIPS: ...
@overload
def make_network(config: ConvNeXtConfig, *, rngs: nnx.Rngs) -> ConvNeXt: ...
def make_network(config, *, rngs):
  """The network of a configuration, with random weights."""
  if isinstance(config, LPIPSConfig):
    return LPIPS(config, rngs=rngs)
  if isinstance(config, ConvNeXtConfig):
    return ConvNeXt(config, rngs=rngs)
  if isinstance(config, EfficientNetConfig):
    return EfficientNetPatches(config, rngs=rngs)
  if isinstance(config, DINOv3Config):
    return DINOv3(config, rngs=rngs)
  return DINOv2(config, rngs=rngs)


@overload
def abstract_network(config: PatchConfig) -> PatchNetwork: ...
@overload
def abstract_network(config: LPIPSConfig) -> LPIPS: ...
@overload
def abstract_network(config: ConvNeXtConfig) -> ConvNeXt: ...
def abstract_network(config):
  """The network with shapes in place of weights: nothing is allocated."""
  return nnx.eval_shape(lambda: make_network(config, rngs=nnx.Rngs(0)))


def imagenet_normalize(
  images: Float[Array, 'B H W C'],
) -> Float[Array, 'B H W 3']:
  """Images in [-1, 1], of three channels or one, as the network takes them."""
  x = (images.astype(jnp.float32) + 1) / 2
  return (x - np.array(IMAGENET_MEAN, 'f')) / np.array(IMAGENET_STD, 'f')


def teacher_features(
  model: PatchNetwork, images: Float[Array, 'B H W C'], patch_size: int = 16
) -> Float[Array, 'B L D']:
  """`image_features`, through which no gradient flows."""
  return jax.lax.stop_gradient(image_features(model, images, patch_size))


def image_features(
  model: PatchNetwork, images: Float[Array, 'B H W C'], patch_size: int = 16
) -> Float[Array, 'B L D']:
  """Features of a frozen network for each patch of the images.

  Images are resized so that it has the patches of the network that is trained:
  from 256 to 224 (14/16 of the side) for a DINOv2 and patches of 16. Bicubic
  without antialiasing, as `torch.nn.functional.interpolate` does it.

  Args:
    model: the teacher of REPA, or the encoder that grounds.
    images: clean ones in [-1, 1], or noisy ones, which are not clipped; three
      channels, or one that is shown in all three.
    patch_size: of the network that is trained; divides both sides.

  Raises:
    UserError: sides that are not.
  """
  height, width, channels = images.shape[1:]
  if height % patch_size or width % patch_size or channels not in (1, 3):
    raise UserError(
      f'the teacher was given images of {height} x {width} x {channels}: '
      f'expected sides that are multiples of the patch, {patch_size}, and 1 '
      'or 3 channels.'
    )
  ours = model.config.patch_size
  x = imagenet_normalize(images)
  grid = (height // patch_size * ours, width // patch_size * ours)
  if grid != (height, width):
    x = resize_bicubic(x, grid)
  return model(x)
