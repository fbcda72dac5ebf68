"""The network: a patch-level DiT, and a decoder from its tokens to pixels.

With PiT blocks as the decoder it is PixelDiT (arXiv 2511.20645); `families`
shows what else it can be.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import BasisEmbed
from pixeldit_jax.model.decoders.deco import (
  DeCoBlock,
  DeCoEmbed,
  DeCoOutput,
  PixelCondition,
)
from pixeldit_jax.model.decoders.linear import PatchOutput
from pixeldit_jax.model.decoders.nerf_field import FieldBlock
from pixeldit_jax.model.decoders.pit_blocks import (
  PixelBlock,
  PixelEmbed,
  PixelOutput,
  pixel_rotary,
)
from pixeldit_jax.model.embed import (
  ClassEmbed,
  ContextEmbed,
  PatchEmbed,
  TextEmbed,
  TimeEmbed,
  patchify,
  unpatchify,
)
from pixeldit_jax.model.grounding import GroundingProjector
from pixeldit_jax.model.layers import Linear, matmul_precision, set_products
from pixeldit_jax.model.lora import add_adapters
from pixeldit_jax.model.mean_flow import PixelMeanFlow, Step, StepEmbed
from pixeldit_jax.model.mmdit_block import MMDiTBlock
from pixeldit_jax.model.patch_block import PatchBlock
from pixeldit_jax.model.rope import (
  Rotary,
  rotary_1d,
  rotary_2d,
  unrotated_first,
)
from pixeldit_jax.model.stack import run_blocks, split_blocks, stack_blocks
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import (
  AnyArray,
  Array,
  Condition,
  Float,
  GroundedCondition,
  Int,
  Key,
  PyTree,
)

# The layers of each decoder with pixel tokens: first, repeated, last.
DECODERS = {
  'pit_blocks': (PixelEmbed, PixelBlock, PixelOutput),
  'deco': (DeCoEmbed, DeCoBlock, DeCoOutput),
  'nerf_field': (BasisEmbed, FieldBlock, PixelOutput),
}


class Part(NamedTuple):
  """Patch blocks that were run as one loop.

  Attributes:
    end: the number of blocks up to here.
    last: the patch tokens after them.
    outputs: those after each of its blocks.
  """

  end: int
  last: Float[Array, 'B L D']
  outputs: Float[Array, 'depth B L D']


class PixelDiT(nnx.Module):
  """The velocity of an image at a time, given its class or text (figure 2).

  Patch tokens carry the meaning of the image; with the time they condition,
  pixel by pixel, the path that makes the velocity of every pixel. If
  `config.prediction` is 'image' it is the image that is given.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.time_embed = TimeEmbed(config, rngs=rngs)
    if config.text_width:
      self.text_embed = TextEmbed(config, rngs=rngs)
    else:
      self.class_embed = ClassEmbed(config, rngs=rngs)
    if config.mean_flow == 'added':
      self.step_embed = StepEmbed(config, rngs=rngs)
    if config.size_embed:
      self.size_embed = TimeEmbed(config, rngs=rngs)
    self.patch_embed = PatchEmbed(config, rngs=rngs)
    if config.context_tokens:
      self.context_embed = ContextEmbed(config, rngs=rngs)
    if config.grounding_width:
      self.grounding = GroundingProjector(config, rngs=rngs)
    Block = MMDiTBlock if config.text_width else PatchBlock
    self.patch_blocks = stack_blocks(
      lambda rngs: Block(config, rngs=rngs), config.patch_depth, rngs
    )
    self._add_decoder(config, rngs)
    if config.lora_rank:
      alpha = config.lora_alpha or config.lora_rank
      add_adapters(self, config.lora_rank, alpha, config.lora_classes, rngs)
    set_products(self, config.products)

  def _add_decoder(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
    """The layers from patch tokens to pixels."""
    if not config.pixel_depth:
      self.output: Any = PatchOutput(config, rngs=rngs)
      return
    Embed, Pixels, Output = DECODERS[config.decoder]
    self.pixel_embed = Embed(config, rngs=rngs)
    self.pixel_blocks = stack_blocks(
      lambda rngs: Pixels(config, rngs=rngs), config.pixel_depth, rngs
    )
    if config.decoder == 'deco':
      self.pixel_condition = PixelCondition(config, rngs=rngs)
    elif config.decoder == 'pit_blocks' and config.pixel_adaln == 'global':
      self.pixel_join = Linear(
        config.width,
        config.pixel_width,
        ('embed', None),
        dtype=config.dtype,
        rngs=rngs,
      )
    self.output = Output(config, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Int[Array, 'B'] | Float[Array, ''] | float,
    y: Condition,
    dropout: Key | None = None,
    latent_size: Int[AnyArray, 'B'] | int | None = None,
    step: Step | None = None,
  ) -> Float[Array, 'B H W O']:
    """Velocity, image or noise, float32.

    Args:
      x: noisy images, data in [-1, 1]; sides are multiples of the patch.
      t: times in [0, 1], 0 is noise and 1 is data; one for all, or each. Of a
        network of noise (DiT) steps 0..999, 999 is noise; of PixelFlow 0..999,
        0 is noise.
      y: labels [B], `config.num_classes` for no class; of a grounded network
        also a `GroundedCondition`, without which it answers ungrounded; of a
        network with text a `TextCondition`, with the mask if
        `config.text_mask`.
      dropout: keys for `config.dropout`, one for each example [B]; without
        them nothing drops.
      latent_size: with `config.size_embed` the patches across the image that
        the network is given, by default those that there are.
      step: with `config.mean_flow` 'added', what the average velocity is over,
        its interval in the time of t; by default it is the velocity.

    Returns:
      As many channels as x has or, with `config.variance`, as many again.

    Raises:
      UserError: sides that are not multiples of the patch, a text longer than
        `config.text_tokens`, or one without the mask that it needs; features
        of another width or number than the network takes.
    """
    return self._forward(x, t, y, dropout, size=latent_size, step=step)[0]

  def with_features(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Int[Array, 'B'] | Float[Array, ''] | float,
    y: Condition,
    latent_size: Int[AnyArray, 'B'] | int | None = None,
  ) -> tuple[Float[Array, 'B H W O'], dict[str, Float[Array, 'depth ...']]]:
    """`__call__`, and the outputs of all blocks by path ('patch_blocks', ...).

    Of the patch path those of the image's tokens [depth, B, L, D], of the pixel
    path, if there is one, [depth, B, L, P, E]. XLA removes unused ones.
    """
    v, patch, pixel = self._forward(x, t, y, size=latent_size)
    outputs = [part.outputs for part in patch]
    features = {'patch_blocks': jnp.concatenate(outputs)}
    return v, features if pixel is None else features | {'pixel_blocks': pixel}

  def with_patch_feature(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Int[Array, 'B'] | Float[Array, ''] | float,
    y: Condition,
    feature_layer: int,
    dropout: Key | None = None,
  ) -> tuple[Float[Array, 'B H W O'], Float[Array, 'B L D']]:
    """`__call__`, and the patch tokens after `feature_layer` patch blocks."""
    v, patch, _ = self._forward(x, t, y, dropout, cuts=(feature_layer,))
    return v, next(part.last for part in patch if part.end == feature_layer)

  def patch_tokens(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Float[Array, ''] | float,
    y: Condition,
  ) -> Float[Array, 'B L D']:
    """The patch path alone: what it tells the pixels."""
    return self._forward(x, t, y)[1][-1].last

  def from_patch_tokens(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Float[Array, ''] | float,
    tokens: Float[Array, 'B L D'],
  ) -> Float[Array, 'B H W O']:
    """The pixel path alone: with the tokens of x and t it ends as `__call__`.

    It needs one that takes nothing else of the patch path: `config.pixel_depth`
    above 0, and not `config.pixel_adaln` 'global'.
    """
    with matmul_precision(self.config.dtype):
      grid, x_BLPC, _, time = self._inputs(x, t)
      pixels, _ = self._pixel_path(x_BLPC, tokens, None, time, grid)
      return unpatchify(pixels, grid).astype(jnp.float32)

  def _inputs(self, x, t):
    """The grid, the pixels of each patch, times [B] and their embedding."""
    config = self.config
    grid = config.grid(*x.shape[1:3])
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
    x_BLPC = patchify(x.astype(config.dtype), config.patch_size)
    return grid, x_BLPC, t, self.time_embed(t)

  def _forward(
    self,
    x,
    t,
    y,
    dropout=None,
    cuts: Collection[int] = (),
    size=None,
    step=None,
  ):
    """Prediction, parts of the patch path, outputs of all pixel blocks.

    Args:
      x, t, y, dropout: see `__call__`.
      cuts: numbers of patch blocks after which a part is to end.
      size, step: `latent_size` and `step` of `__call__`.
    """
    config = self.config
    with matmul_precision(config.dtype):
      grid, x_BLPC, t, time = self._inputs(x, t)
      if step is not None:
        time = sum(self.step_embed(step).values(), time)
      c = time[:, None]
      if config.size_embed:
        size = jnp.asarray(grid[1] if size is None else size, jnp.float32)
        c = c + self.size_embed(jnp.broadcast_to(size, t.shape))[:, None]
      if isinstance(y, GroundedCondition):
        y, c = y.labels, c + self._grounding(y, t, grid)
      s = self.patch_embed(x_BLPC, grid)
      s = constrain(s, 'batch', 'patches', None)
      path = self._text_path if config.text_width else self._class_path
      s, c, parts = path(s, c, y, grid, dropout, cuts)
      if config.pixel_depth:
        pixels, outputs = self._pixel_path(x_BLPC, s, c, time, grid)
      else:
        pixels, outputs = self.output(s, c), None
      return unpatchify(pixels, grid).astype(jnp.float32), parts, outputs

  def _grounding(self, y, t, grid):
    """The part of the condition of each patch [B, L, D] from features."""
    config = self.config
    (rows, columns), (_, L, width) = grid, y.features.shape
    if width != config.grounding_width:
      raise UserError(
        f'features that are {width} wide, but model.grounding_width='
        f'{config.grounding_width}: take the encoder that the network was made '
        'for.'
      )
    if L != rows * columns:
      raise UserError(
        f'features of {L} patches, but the image has {rows} x {columns}: one '
        'for each patch, without class or register tokens.'
      )
    head_size = config.width // (config.grounding_heads or config.heads)
    rotary = self._rotary(rotary_2d, *grid, head_size, config.rotary)
    g = self.grounding(y.features, t, rotary)
    if y.dropped is not None:
      g = jnp.where(y.dropped[:, None, None], jnp.zeros_like(g), g)
    return constrain(g, 'batch', 'patches', None)

  def _class_path(self, s, c, y, grid, dropout, cuts):
    """Patch tokens [B, L, D], the condition [B, 1 or L, D], the parts.

    Args:
      s: patch tokens.
      c: of the time [B, 1, D] or, grounded, of each patch [B, L, D].
      y, grid, dropout, cuts: see `_forward`.
    """
    config, depth = self.config, self.config.patch_depth
    classes = self.class_embed(y)
    c = c + classes[:, None]
    tokens = 'patches' if c.shape[1] > 1 else None
    if config.condition_silu == 2:
      c = jax.nn.silu(c)
    conditions = c = constrain(c, 'batch', tokens, None)
    rotary = self._rotary(rotary_2d, *grid, config.head_size, config.rotary)
    start = config.context_start if config.context_tokens else None
    dropped = range(depth // 4, 3 * (depth // 4)) if config.dropout else ()
    if dropout is not None and dropped:
      split = jax.vmap(lambda key: jax.random.split(key, depth), out_axes=1)
      keys, cuts = split(dropout), {*cuts, dropped.start, dropped.stop}
    front, parts = 0, []  # tokens in front of the patches
    for first, end, blocks in self._parts({*cuts, start or 0}):
      if first == start:
        front = config.context_tokens
        s = jnp.concatenate([self.context_embed(classes), s], 1)
        s = constrain(s, 'batch', 'patches', None)
        rotary = rotary and unrotated_first(rotary, front)
        if tokens:  # of the class tokens it is the mean of the patches
          mean = jnp.mean(c, 1, keepdims=True)
          mean = jnp.broadcast_to(mean, (*c.shape[:1], front, c.shape[2]))
          conditions = jnp.concatenate([mean, c], 1)
      drops = dropout is not None and first in dropped
      s, outputs = self._run(
        blocks,
        s,
        jax.nn.silu(conditions),
        rotary,
        each=(keys[first:end],) if drops else (),
      )
      parts.append(Part(end, s[:, front:], outputs[:, :, front:]))
    return s[:, front:], jax.nn.silu(c), parts

  def _text_path(self, s, c, y, grid, dropout, cuts):
    """As `_class_path`, with the tokens of a text next to the patches."""
    del dropout  # `ModelConfig` refuses it
    config = self.config
    c = jax.nn.silu(c)
    text = constrain(self.text_embed(y.tokens), 'batch', None, None)
    rotary = (
      self._rotary(rotary_2d, *grid, config.head_size, config.rotary),
      self._rotary(rotary_1d, text.shape[1], config.head_size),
    )
    mask = y.mask if config.text_mask else None
    if config.text_mask and mask is None:
      raise UserError(
        'model.text_mask=True, but the texts came without a mask [B, T]: pass '
        'TextCondition(tokens, mask), or set it to False.'
      )
    parts = []
    for _, end, blocks in self._parts(cuts):
      (s, text), (outputs, _) = self._run(blocks, (s, text), c, rotary, mask)
      parts.append(Part(end, s, outputs))
    return s, c, parts

  def _parts(self, cuts):
    return split_blocks(self.patch_blocks, cuts, self.config.patch_depth)

  def _run(self, blocks, x, *conditions, **more):
    scan, remat = self.config.scan, self.config.patch_remat
    return run_blocks(blocks, x, *conditions, scan=scan, remat=remat, **more)

  def _pixel_path(self, x_BLPC, s, c, time, grid):
    """Pixels [B, L, P, C], and the outputs of all blocks."""
    config = self.config
    condition = jax.nn.silu(s + time[:, None])
    z = self.pixel_embed(x_BLPC, grid)
    rotary = None
    if config.decoder == 'deco':
      condition = self.pixel_condition(condition)
    elif config.decoder == 'pit_blocks':
      rotary = self._rotary(pixel_rotary, config, grid)
      if config.pixel_adaln == 'global':
        # This modulation carries nothing of the patches: they are added.
        z += self.pixel_join(condition)[:, :, None]
        condition = c
    z = constrain(z, 'batch', 'patches', None, None)
    z, outputs = run_blocks(
      self.pixel_blocks,
      z,
      condition,
      rotary,
      scan=config.scan,
      remat=config.pixel_remat,
    )
    return self.output(z), outputs

  def _rotary(self, make, *args) -> Rotary | None:
    """make(*args), the rotary tables; None where positions are absolute."""
    return None if self.config.positions == 'absolute' else make(*args)


Network = PixelDiT | PixelMeanFlow


def make_model(config: ModelConfig, rngs: nnx.Rngs) -> Network:
  """The network that a configuration names, with random weights."""
  if config.mean_flow == 'tokens':
    return PixelMeanFlow(config, rngs=rngs)
  return PixelDiT(config, rngs=rngs)


@functools.lru_cache(maxsize=16)
def abstract_model(config: ModelConfig) -> Any:
  """The network with shapes in place of weights: nothing is allocated.

  It is kept, for it takes a quarter of a second to make, and a start needs it
  more than once: do not change it.
  """
  return nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0)))


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
