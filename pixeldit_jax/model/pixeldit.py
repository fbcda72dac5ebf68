"""PixelDiT: a patch-level DiT and a pixel-level path (arXiv 2511.20645)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import (
  ClassEmbed,
  PatchEmbed,
  PatchOutput,
  PixelEmbed,
  PixelOutput,
  TextEmbed,
  TimeEmbed,
  patchify,
  unpatchify,
)
from pixeldit_jax.model.layers import Linear, matmul_precision
from pixeldit_jax.model.mmdit_block import MMDiTBlock
from pixeldit_jax.model.patch_block import PatchBlock
from pixeldit_jax.model.pixel_block import PixelBlock, pixel_rotary
from pixeldit_jax.model.rope import Rotary, rotary_1d, rotary_2d
from pixeldit_jax.model.stack import (
  run_blocks,
  run_blocks_with_feature,
  stack_blocks,
)
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Condition, Float, PyTree


class PixelDiT(nnx.Module):
  """The velocity of an image at a time, given its class or text (figure 2).

  Patch tokens carry the meaning of the image; with the time they condition,
  pixel by pixel, the path that makes the velocity of every pixel.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.time_embed = TimeEmbed(config, rngs=rngs)
    if config.text_width:
      self.text_embed = TextEmbed(config, rngs=rngs)
    else:
      self.class_embed = ClassEmbed(config, rngs=rngs)
    self.patch_embed = PatchEmbed(config, rngs=rngs)
    Block = MMDiTBlock if config.text_width else PatchBlock
    self.patch_blocks = stack_blocks(
      lambda rngs: Block(config, rngs=rngs), config.patch_depth, rngs
    )
    if config.pixel_depth:
      self.pixel_embed = PixelEmbed(config, rngs=rngs)
      self.pixel_blocks = stack_blocks(
        lambda rngs: PixelBlock(config, rngs=rngs), config.pixel_depth, rngs
      )
      if config.pixel_adaln == 'global':
        self.pixel_join = Linear(
          config.width,
          config.pixel_width,
          ('embed', None),
          dtype=config.dtype,
          rngs=rngs,
        )
      self.output = PixelOutput(config, rngs=rngs)
    else:
      self.output = PatchOutput(config, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | float,
    y: Condition,
  ) -> Float[Array, 'B H W C']:
    """Velocity, float32.

    Args:
      x: noisy images, data in [-1, 1]; sides are multiples of the patch.
      t: times in [0, 1], 0 is noise and 1 is data; one for all, or each.
      y: labels [B], `config.num_classes` for no class; a `TextCondition` of a
        network with text, with the mask if `config.text_mask`.

    Raises:
      UserError: sides that are not multiples of the patch, a text longer than
        `config.text_tokens`, or one without the mask that it needs.
    """
    return self.with_features(x, t, y)[0]

  def with_features(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | float,
    y: Condition,
  ) -> tuple[Float[Array, 'B H W C'], dict[str, Float[Array, 'depth ...']]]:
    """`__call__`, and the outputs of all blocks by path ('patch_blocks', ...).

    Of the patch path those of the image's tokens [depth, B, L, D], of the pixel
    path, if there is one, [depth, B, L, P, E]. XLA removes unused ones.
    """
    v, patch, pixel = self._forward(run_blocks, x, t, y)
    features = {'patch_blocks': patch}
    return v, features if pixel is None else features | {'pixel_blocks': pixel}

  def with_patch_feature(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | float,
    y: Condition,
    feature_layer: int,
  ) -> tuple[Float[Array, 'B H W C'], Float[Array, 'B L D']]:
    """`__call__`, and the patch tokens after `feature_layer` patch blocks."""
    run = functools.partial(
      run_blocks_with_feature, feature_layer=feature_layer
    )
    v, feature, _ = self._forward(run, x, t, y)
    return v, feature

  def _forward(self, run_patch_blocks, x, t, y):
    """Velocity, features of the patch path, outputs of all pixel blocks.

    Args:
      run_patch_blocks: `run_blocks`, or another that returns the last output
        and the features that are wanted.
      x, t, y: see `__call__`.
    """
    with matmul_precision(self.config.dtype):
      return self._velocity(run_patch_blocks, x, t, y)

  def _velocity(self, run_patch_blocks, x, t, y):
    config = self.config
    grid = config.grid(*x.shape[1:3])
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
    x_BLPC = patchify(x.astype(config.dtype), config.patch_size)
    time = self.time_embed(t)
    s = self.patch_embed(x_BLPC, grid)
    s = constrain(s, 'batch', 'patches', None)
    s, c, patch_features = self._patch_path(run_patch_blocks, s, time, y, grid)
    pixel_features = None
    if config.pixel_depth:
      condition = jax.nn.silu(s + time[:, None])
      z = self.pixel_embed(x_BLPC, grid)
      if config.pixel_adaln == 'global':
        # This modulation carries nothing of the patches: they are added.
        z += self.pixel_join(condition)[:, :, None]
        condition = c[:, None]
      z = constrain(z, 'batch', 'patches', None, None)
      s, pixel_features = run_blocks(
        self.pixel_blocks,
        z,
        condition,
        self._rotary(pixel_rotary, config, grid),
        scan=config.scan,
        remat=config.pixel_remat,
      )
    v = unpatchify(self.output(s), grid)
    return v.astype(jnp.float32), patch_features, pixel_features

  def _patch_path(self, run_patch_blocks, s, time, y, grid):
    """Patch tokens [B, L, D], the condition [B, D], features of the tokens."""
    config = self.config
    run = functools.partial(
      run_patch_blocks,
      self.patch_blocks,
      scan=config.scan,
      remat=config.patch_remat,
    )
    rotary = self._rotary(rotary_2d, *grid, config.head_size)
    if not config.text_width:
      c = constrain(jax.nn.silu(time + self.class_embed(y)), 'batch', None)
      s, features = run(s, c, rotary)
      return s, c, features
    c = jax.nn.silu(time)
    text = constrain(self.text_embed(y.tokens), 'batch', None, None)
    rotary = rotary, self._rotary(rotary_1d, text.shape[1], config.head_size)
    mask = y.mask if config.text_mask else None
    if config.text_mask and mask is None:
      raise UserError(
        'model.text_mask=True, but the texts came without a mask [B, T]: pass '
        'TextCondition(tokens, mask), or set it to False.'
      )
    (s, _), (features, _) = run((s, text), c, rotary, mask)
    return s, c, features

  def _rotary(self, make, *args) -> Rotary | None:
    """make(*args), the rotary tables; None where positions are absolute."""
    return make(*args) if self.config.positions == 'rope' else None


def abstract_model(config: ModelConfig) -> PixelDiT:
  """The network with shapes in place of weights: nothing is allocated."""
  return nnx.eval_shape(lambda: PixelDiT(config, rngs=nnx.Rngs(0)))


def weights_of(model: nnx.Module) -> PyTree:
  """The weights as a nested dict of arrays."""
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def axes_of(model: nnx.Module) -> PyTree:
  """The logical axis names of each weight, as a dict like `weights_of`."""
  return _each_weight(model, lambda weight: weight.get_metadata('axes'))


def matrix_axes_of(model: nnx.Module) -> PyTree:
  """For each weight: how many layer axes it has, then how many input axes.

  Only kernels have inputs; all other weights are vectors, or tables of them.
  """

  def count(weight):
    stacked = weight.get_metadata('axes')[0] == 'layers'
    return int(stacked), weight.get_metadata('inputs', 0)

  return _each_weight(model, count)


def _each_weight(model: nnx.Module, fn: Callable[[nnx.Param], Any]) -> PyTree:
  is_weight = lambda p: isinstance(p, nnx.Param)  # noqa: E731
  state = nnx.state(model, nnx.Param)
  return nnx.to_pure_dict(jax.tree.map(fn, state, is_leaf=is_weight))
