"""DINOv3 (arXiv 2508.10104), the frozen encoder that grounds a network.

A vision transformer as DINOv2, but its positions are rotary, so that it takes
any grid of patches, and keys have no bias. The large sizes have a SwiGLU MLP.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.encoders.vision_transformer import (
  learned_tokens,
  linear,
  patch_embedding,
  patch_grid,
  prepend,
  residual_scale,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.embed import patchify
from pixeldit_jax.model.layers import LayerNorm, matmul_precision
from pixeldit_jax.model.rope import Rotary, rotate
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.typing import Array, Float

EPSILON = 1e-5  # of the norms; DINOv2 has 1e-6

SIZES = {
  'S': dict(width=384, depth=12, heads=6, mlp_width=1536),
  'S+': dict(width=384, depth=12, heads=6, mlp_width=1536, gated=True),
  'B': dict(width=768, depth=12, heads=12, mlp_width=3072),
  'L': dict(width=1024, depth=24, heads=16, mlp_width=4096),
  'H+': dict(width=1280, depth=32, heads=20, mlp_width=5120, gated=True),
  '7B': dict(
    width=4096, depth=40, heads=32, mlp_width=8192, gated=True, qv_bias=False
  ),
}


@dataclasses.dataclass(frozen=True)
class DINOv3Config:
  """A DINOv3. The defaults are those of ViT-S/16.

  Attributes:
    width: of the tokens.
    depth: blocks.
    heads: attention heads; a head is a multiple of 4 wide.
    mlp_width: hidden width of the MLP.
    gated: SwiGLU in place of GELU.
    patch_size: side of a patch.
    registers: tokens between the class token and the patches.
    qv_bias: whether queries and values have biases; keys never have.
    theta: the longest rotary period, of coordinates that span 2.
    layer_scale: what the residual scales start from in a random network.
    dtype: of matrix products; the residual stream, norms and softmax are
      float32.
    scan: blocks as one loop, or unrolled; see `ModelConfig`.
  """

  width: int = 384
  depth: int = 12
  heads: int = 6
  mlp_width: int = 1536
  gated: bool = False
  patch_size: int = 16
  registers: int = 4
  qv_bias: bool = True
  theta: float = 100.0
  layer_scale: float = 1.0
  dtype: str = 'bfloat16'
  scan: bool = True

  def __post_init__(self):
    if self.width % (4 * self.heads):
      raise UserError(
        f'an encoder of width={self.width} with {self.heads} heads: the width '
        'must be a multiple of 4 x heads (a head is 64 wide in the released '
        'networks, 128 in the largest).'
      )

  @property
  def head_size(self) -> int:
    return self.width // self.heads

  def patches(self, height: int, width: int) -> tuple[int, int]:
    """Patches down and across an image.

    Raises:
      UserError: a side that is not a multiple of the patch size.
    """
    return patch_grid('DINOv3', self.patch_size, height, width)


def sized(size: str, **overrides) -> DINOv3Config:
  """The configuration of a released size: S, S+, B, L, H+ or 7B."""
  if size not in SIZES:
    raise UserError(f'DINOv3 size={size!r}: use one of {tuple(SIZES)}.')
  return DINOv3Config(**(SIZES[size] | overrides))


def of_width(width: int, **overrides) -> DINOv3Config:
  """The released size with a GELU MLP of a width; a small network of others."""
  for size in ('S', 'B', 'L'):
    if SIZES[size]['width'] == width:
      return sized(size, **overrides)
  heads = next(n for n in (2, 1) if width % (4 * n) == 0)
  small = dict(width=width, depth=2, heads=heads, mlp_width=4 * width)
  return DINOv3Config(**(small | overrides))


def forward_flops(config: DINOv3Config, height: int, width: int) -> int:
  """Operations of one image, 2 for a multiply-add; see `model.cost`.

  Raises:
    UserError: sides that are not multiples of the patch size.
  """
  L = math.prod(config.patches(height, width))
  S, D = L + 1 + config.registers, config.width
  mlp = (3 if config.gated else 2) * D * config.mlp_width
  block = S * (4 * D * D + mlp) + 2 * S * S * D
  return 2 * (L * 3 * config.patch_size**2 * D + config.depth * block)


def rotary_centers(
  config: DINOv3Config, grid: tuple[int, int], before: int = 0
) -> Rotary:
  """Cosines and sines of the angles of tokens, row by row.

  The centres of the patches are evenly spaced inside [-1, 1] along each axis,
  whatever the grid. Of the K/2 channel pairs of a head the first half turns
  with the row, the second half with the column.

  Args:
    config: its heads and `theta` decide the angles.
    grid: patches down and across.
    before: tokens before the patches, which are not turned.
  """
  quarter = config.head_size // 4
  frequencies = np.float32(config.theta) ** (
    -np.arange(quarter, dtype=np.float32) / quarter
  )
  centers = [(np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in grid]
  y, x = np.meshgrid(*centers, indexing='ij')
  turns = np.stack([y.ravel(), x.ravel()], 1)[:, :, None] * frequencies
  angles = (2 * np.pi * turns).astype(np.float32).reshape(-1, 2 * quarter)
  angles = np.concatenate([np.zeros((before, 2 * quarter), np.float32), angles])
  return jnp.cos(angles), jnp.sin(angles)


class DINOv3Block(nnx.Module):
  """x += ls1 * Attn(norm x); x += ls2 * MLP(norm x)."""

  def __init__(self, config: DINOv3Config, *, rngs: nnx.Rngs):
    width, heads, size = config.width, config.heads, config.head_size

    dense = functools.partial(linear, dtype=config.dtype, rngs=rngs)
    scale = functools.partial(residual_scale, width, config.layer_scale)
    hidden = (2, config.mlp_width) if config.gated else config.mlp_width
    mlp_axes = (None, 'mlp') if config.gated else ('mlp',)
    self.gated = config.gated
    self.norm1 = LayerNorm(width, EPSILON)
    self.qkv = dense(
      width, (3, heads, size), ('embed', None, 'heads', None), bias=False
    )
    self.has_bias = config.qv_bias
    if config.qv_bias:
      value = jnp.zeros((2, heads, size), jnp.float32)
      self.qv_bias = nnx.Param(value, axes=(None, 'heads', None))
    self.proj = dense((heads, size), width, ('heads', None, 'embed'))
    self.scale1 = scale()
    self.norm2 = LayerNorm(width, EPSILON)
    self.up = dense(width, hidden, ('embed', *mlp_axes))
    self.down = dense(config.mlp_width, width, ('mlp', 'embed'))
    self.scale2 = scale()

  def __call__(
    self, x: Float[Array, 'B L D'], rotary: Rotary
  ) -> Float[Array, 'B L D']:
    q_BLNK, k_BLNK, v_BLNK = jnp.unstack(self.qkv(self.norm1(x)), axis=2)
    if self.has_bias:
      q_bias, v_bias = self.qv_bias[...].astype(q_BLNK.dtype)
      q_BLNK, v_BLNK = q_BLNK + q_bias, v_BLNK + v_bias
    h = attend(rotate(q_BLNK, rotary), rotate(k_BLNK, rotary), v_BLNK)
    x += self.scale1[...] * self.proj(h).astype(x.dtype)
    return x + self.scale2[...] * self._mlp(self.norm2(x)).astype(x.dtype)

  def _mlp(self, x):
    h = self.up(x)
    if self.gated:
      return self.down(jax.nn.silu(h[:, :, 0]) * h[:, :, 1])
    return self.down(jax.nn.gelu(h, approximate=False))


class DINOv3(nnx.Module):
  """Images to one feature for each patch, after the last norm."""

  def __init__(self, config: DINOv3Config, *, rngs: nnx.Rngs):
    self.config = config
    width = config.width
    self.patch_embed = patch_embedding(
      config.patch_size, width, dtype=config.dtype, rngs=rngs
    )
    self.class_token = learned_tokens(1, width, rngs)
    if config.registers:
      self.register_tokens = learned_tokens(config.registers, width, rngs)
    self.blocks = stack_blocks(
      lambda rngs: DINOv3Block(config, rngs=rngs), config.depth, rngs
    )
    self.norm = LayerNorm(width, EPSILON)

  def __call__(self, x: Float[Array, 'B H W 3']) -> Float[Array, 'B L D']:
    """Features of the last layer, normed, float32.

    Args:
      x: images, ImageNet-normalised, sides multiples of the patch size.

    Raises:
      UserError: sides that are not.
    """
    return self.with_features(x)[0]

  def with_features(
    self, x: Float[Array, 'B H W 3']
  ) -> tuple[Float[Array, 'B L D'], Float[Array, 'depth B S D']]:
    """`__call__`, and all tokens after each block, the class token first."""
    with matmul_precision(self.config.dtype):
      return self._forward(x)

  def _forward(self, x):
    config = self.config
    grid = config.patches(*x.shape[1:3])
    x = patchify(x.astype(config.dtype), config.patch_size)
    # The residual stream is float32: features of noise are read as they are.
    x = self.patch_embed(x).astype(jnp.float32)
    tokens = [self.class_token[...]]
    if config.registers:
      tokens.append(self.register_tokens[...])
    x = prepend(tokens, x)
    before = 1 + config.registers
    rotary = rotary_centers(config, grid, before)
    x, features = run_blocks(
      self.blocks, x, rotary, scan=config.scan, remat='none'
    )
    return self.norm(x[:, before:]), features
