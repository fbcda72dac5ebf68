"""Networks of average velocities: their inputs, and pMF's own.

Pixel MeanFlow (arXiv 2601.22158). Such a network jumps over a step h of time
at once, and gets the scale of guidance omega and the interval of times
[t_min, t_max] in which it holds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.linear import PatchOutput
from pixeldit_jax.model.embed import (
  ClassEmbed,
  PatchEmbed,
  TimeEmbed,
  patchify,
  unpatchify,
)
from pixeldit_jax.model.layers import (
  RMSNorm,
  SwiGLU,
  matmul_precision,
  normal,
)
from pixeldit_jax.model.rope import Rotary, rotary_2d, unrotated_first
from pixeldit_jax.model.self_attention import SelfAttention
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import AnyArray, Array, Float, Int

unit_variance = jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
# Tokens of each condition, in their order in front of the patches.
TOKENS = {'label': 8, 'omega': 4, 't_min': 2, 't_max': 2, 'h': 4}
PREFIX = sum(TOKENS.values())


class Step(NamedTuple):
  """The inputs of a network of average velocities, for each image [B].

  Attributes:
    h: the time that it jumps over, in [0, 1]; at 0 the average is the velocity.
    omega: the scale of guidance, at least 1, which is none.
    t_min, t_max: the times between which it is guided.
  """

  h: Float[Array, 'B']
  omega: Float[Array, 'B']
  t_min: Float[Array, 'B']
  t_max: Float[Array, 'B']

  def inputs(self) -> dict[str, Float[AnyArray, 'B']]:
    """Numbers in [0, 1], which are embedded."""
    return self._asdict() | dict(omega=1 - 1 / self.omega)


class StepEmbed(nnx.Module):
  """An embedding of each number of a `Step`; with `last` 0 without effect."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    zero = config.mean_flow == 'added'
    for name in Step._fields:
      embed = TimeEmbed(config, kernel_init=unit_variance, rngs=rngs)
      if zero:  # so that a network of velocities stays what it was
        for weight in (embed.down.kernel, embed.down.bias):
          weight[...] = jnp.zeros_like(weight[...])
      setattr(self, name, embed)

  def __call__(self, step: Step) -> dict[str, Float[Array, 'B D']]:
    return {
      name: getattr(self, name)(jnp.asarray(value, jnp.float32))
      for name, value in step.inputs().items()
    }


class PlainBlock(nnx.Module):
  """x += a * Attn(norm x); x += m * SwiGLU(norm x), with learned a and m.

  These start at zero.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    width = config.width
    self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
    self.attn = SelfAttention(config, width, config.heads, rngs=rngs)
    self.mlp = SwiGLU(config, rngs=rngs)
    gate = jnp.zeros(width, jnp.float32)
    self.attn_scale = nnx.Param(gate, axes=(None,))
    self.mlp_scale = nnx.Param(gate, axes=(None,))

  def __call__(
    self, x: Float[Array, 'B L D'], rotary: Rotary
  ) -> Float[Array, 'B L D']:
    a, m = (p[...].astype(x.dtype) for p in (self.attn_scale, self.mlp_scale))
    x += a * self.attn(self.norm1(x), rotary)
    x += m * self.mlp(self.norm2(x))
    return constrain(x, 'batch', 'patches', None)


class PixelMeanFlow(nnx.Module):
  """Noisy images to the image at the end of a step (pMF, section 4).

  A plain transformer whose conditions are tokens; the time is not an input.
  Shared blocks, then those of the average velocity u and, for training, those
  of the velocity v.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.step_embed = StepEmbed(config, rngs=rngs)
    by_width = jax.nn.initializers.normal(config.width**-0.5)
    self.class_embed = ClassEmbed(config, init=by_width, rngs=rngs)
    self.patch_embed = PatchEmbed(config, rngs=rngs)
    width, branch = config.width, config.branch_depth
    for name, count in TOKENS.items():
      tokens = by_width(rngs.params(), (count, width), jnp.float32)
      setattr(self, f'{name}_tokens', nnx.Param(tokens, axes=(None, 'embed')))
    length = PREFIX + config.position_grid**2
    positions = normal(rngs.params(), (length, width), jnp.float32)
    self.positions = nnx.Param(positions, axes=(None, 'embed'))

    def blocks(depth):
      return stack_blocks(
        lambda rngs: PlainBlock(config, rngs=rngs), depth, rngs
      )

    self.patch_blocks = blocks(config.patch_depth - branch)
    self.u_blocks, self.u_output = blocks(branch), self._output(rngs)
    if config.velocity_branch:
      self.v_blocks, self.v_output = blocks(branch), self._output(rngs)

  def _output(self, rngs: nnx.Rngs) -> PatchOutput:
    return PatchOutput(self.config, rngs=rngs, modulated=False)

  def __call__(
    self,
    x: Float[Array, 'B H W C'],
    h: Float[AnyArray, '#B'] | float,
    y: Int[AnyArray, 'B'],
    omega: Float[AnyArray, '#B'] | float,
    t_min: Float[AnyArray, '#B'] | float,
    t_max: Float[AnyArray, '#B'] | float,
  ) -> Float[Array, 'B H W C']:
    """The image of the u branch, float32; u = (x - image) / max(t, 0.05).

    Args:
      x: noisy images; a square of `config.position_grid` patches.
      h, omega, t_min, t_max: see `Step`, in pMF's time: 1 is noise, 0 is data.
      y: labels, `config.num_classes` for none.

    Raises:
      UserError: an image of another size than there are positions for.
    """
    step = Step(
      *(jnp.asarray(n, jnp.float32) for n in (h, omega, t_min, t_max))
    )
    return self.branches(x, y, step)[0]

  def branches(
    self, x: Float[Array, 'B H W C'], y: Int[AnyArray, 'B'], step: Step
  ) -> tuple[Float[Array, 'B H W C'], Float[Array, 'B H W C'] | None]:
    """The images of u and of v, None without that branch; see `__call__`."""
    config = self.config
    with matmul_precision(config.dtype):
      grid = config.grid(*x.shape[1:3])
      step = Step(*(jnp.broadcast_to(n, x.shape[:1]) for n in step))
      s = self.tokens(x.astype(config.dtype), jnp.asarray(y), step, grid)
      rotary = rotary_2d(*grid, config.head_size, config.rotary)
      rotary = unrotated_first(rotary, PREFIX)
      s = self._run(self.patch_blocks, s, rotary)

      def end(blocks, output):
        tokens = self._run(blocks, s, rotary)[:, PREFIX:]
        return unpatchify(output(tokens, None), grid).astype(jnp.float32)

      u = end(self.u_blocks, self.u_output)
      if not config.velocity_branch:
        return u, None
      return u, end(self.v_blocks, self.v_output)

  def tokens(
    self,
    x: Float[Array, 'B H W C'],
    y: Int[Array, 'B'],
    step: Step,
    grid: tuple[int, int],
  ) -> Float[Array, 'B T D']:
    """Those of conditions and of patches, with their positions."""
    self.config.check_positions(grid)
    embedded = self.step_embed(step) | dict(label=self.class_embed(y))
    parts = [
      embedded[name][:, None]
      + getattr(self, f'{name}_tokens')[...].astype(x.dtype)
      for name in TOKENS
    ]
    parts.append(self.patch_embed(patchify(x, self.config.patch_size), grid))
    s = jnp.concatenate(parts, 1) + self.positions[...].astype(x.dtype)
    return constrain(s, 'batch', 'patches', None)

  def _run(self, blocks, s, rotary):
    scan, remat = self.config.scan, self.config.patch_remat
    return run_blocks(blocks, s, rotary, scan=scan, remat=remat)[0]
