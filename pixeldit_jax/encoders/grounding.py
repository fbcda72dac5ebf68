"""A network and the frozen encoder that looks at its noisy images.

See `model.grounding`. The encoder has no part in training: its weights are
neither among those of the network nor in its checkpoints.
"""

from flax import nnx

from pixeldit_jax.encoders.vision import (
  PatchConfig,
  PatchNetwork,
  teacher_features,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import PixelDiT
from pixeldit_jax.typing import (
  Array,
  Bool,
  Float,
  GroundedCondition,
  Int,
)


def check_encoder(config: ModelConfig, encoder: PatchConfig) -> None:
  """Raises UserError for an encoder that a network cannot be grounded in."""
  if not config.grounding_width:
    raise UserError(
      f'an encoder of width {encoder.width} for a network with '
      'model.grounding_width=0: set the latter, or leave out the encoder.'
    )
  if encoder.width != config.grounding_width:
    raise UserError(
      f'an encoder of width {encoder.width}, but model.grounding_width='
      f'{config.grounding_width}: the network was made for another (384 is '
      'DINOv3-S, 768 DINOv3-B, 1024 DINOv3-L).'
    )
  if config.in_channels not in (1, 3):
    raise UserError(
      f'model.grounding_width={config.grounding_width} with '
      f'model.in_channels={config.in_channels}: encoders see images of 1 or 3 '
      'channels.'
    )


def ground(
  encoder: PatchNetwork,
  x: Float[Array, 'B H W C'],
  labels: Int[Array, 'B'],
  patch_size: int,
  dropped: Bool[Array, 'B'] | None = None,
) -> GroundedCondition:
  """The condition of noisy images: their labels and what the encoder sees.

  No gradient flows through the encoder.

  Args:
    encoder: with weights.
    x: the noisy images as the network takes them; they are not clipped.
    labels: of each.
    patch_size: of the network.
    dropped: images that are to be treated as if they had no features.
  """
  features = teacher_features(encoder, x, patch_size)
  return GroundedCondition(labels, features, dropped)


class Grounded(nnx.Module):
  """A network with its encoder, called as the network is: model(x, t, y)."""

  def __init__(self, network: PixelDiT, encoder: PatchNetwork):
    check_encoder(network.config, encoder.config)
    self.network, self.encoder = network, encoder

  @property
  def config(self) -> ModelConfig:
    return self.network.config

  def __call__(
    self,
    x: Float[Array, 'B H W C'],
    t: Float[Array, 'B'] | Float[Array, ''] | float,
    y: Int[Array, 'B'],
    dropped: Bool[Array, 'B'] | None = None,
  ) -> Float[Array, 'B H W C']:
    """As the network's; `network` itself answers ungrounded.

    Args:
      x, t: noisy images and their times.
      y: labels.
      dropped: images that are treated as if they had no features.
    """
    condition = ground(self.encoder, x, y, self.config.patch_size, dropped)
    return self.network(x, t, condition)
