"""Features of a frozen encoder as a second condition, one vector a patch.

PixelDiT2 (arXiv 2609.24919): the encoder looks at the noisy image that the
network is given. A small projector, which knows the time, turns its features
into what is added to the condition of each patch, so that every modulation is
one of a patch.
"""

import dataclasses

import jax
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import TimeEmbed
from pixeldit_jax.model.layers import Linear, zeros
from pixeldit_jax.model.patch_block import PatchBlock
from pixeldit_jax.model.rope import Rotary
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Float


def projector_config(config: ModelConfig) -> ModelConfig:
  """That of the projector's blocks: plain ones of the network's width."""
  return dataclasses.replace(
    config,
    heads=config.grounding_heads or config.heads,
    mlp_multiple=0,
    dropout=0.0,
    zero_modulation=True,
  )


class GroundingProjector(nnx.Module):
  """Linear, patch blocks modulated by the time only, linear; no norms.

  With `config.zero_grounding` the last layer starts at zero, so that the
  network starts as the one without grounding.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = blocks = projector_config(config)
    width, dtype = config.width, config.dtype
    last = zeros if config.zero_grounding else None
    self.input = Linear(
      config.grounding_width, width, (None, 'embed'), dtype=dtype, rngs=rngs
    )
    self.time_embed = TimeEmbed(config, kernel_init=None, rngs=rngs)
    self.blocks = stack_blocks(
      lambda rngs: PatchBlock(blocks, rngs=rngs), config.grounding_depth, rngs
    )
    self.output = Linear(
      width,
      width,
      ('embed', None),
      kernel_init=last,
      bias_init=last,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(
    self,
    features: Float[Array, 'B L G'],
    t: Float[Array, 'B'],
    rotary: Rotary | None,
  ) -> Float[Array, 'B L D']:
    """The term that is added to the condition of each patch.

    Args:
      features: of the encoder.
      t: times.
      rotary: of the patches, of heads as the projector's.
    """
    return self.with_features(features, t, rotary)[0]

  def with_features(
    self,
    features: Float[Array, 'B L G'],
    t: Float[Array, 'B'],
    rotary: Rotary | None,
  ) -> tuple[Float[Array, 'B L D'], Float[Array, 'depth B L D']]:
    """`__call__`, and the tokens after each block."""
    config = self.config
    x = constrain(self.input(features), 'batch', 'patches', None)
    c = jax.nn.silu(self.time_embed(t))[:, None]
    x, outputs = run_blocks(
      self.blocks, x, c, rotary, scan=config.scan, remat=config.patch_remat
    )
    return self.output(x), outputs
