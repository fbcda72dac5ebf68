"""Parameters and floating-point operations of a configuration.

Operations count 2 for a multiply-add of a linear layer and of the two products
of attention, nothing else: the convention of the paper's table.
"""

import math

import jax

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import TIME_FEATURES
from pixeldit_jax.model.pixel_block import modulation_vectors
from pixeldit_jax.model.pixeldit import abstract_model, weights_of


def count_parameters(config: ModelConfig) -> int:
  """Weights of the whole network."""
  weights = weights_of(abstract_model(config))
  return sum(math.prod(a.shape) for a in jax.tree.leaves(weights))


def forward_flops(config: ModelConfig, height: int, width: int) -> int:
  """Operations of one forward pass of one image.

  Raises:
    ValueError: sides that are not multiples of the patch.
  """
  L = math.prod(config.grid(height, width))
  D, E, P, C = (
    config.width,
    config.pixel_width,
    config.pixels,
    (config.in_channels),
  )
  attention = L * 4 * D * D + 2 * L * L * D
  patch_block = attention + L * 3 * D * config.mlp_width + 6 * D * D
  total = L * P * C * D + TIME_FEATURES * D + D * D
  total += config.patch_depth * patch_block
  if not config.pixel_depth:
    return 2 * (total + L * D * P * C)
  patches = 1 if config.pixel_adaln == 'global' else L
  modulated = P if config.pixel_adaln == 'pixel' else 1
  pixel_block = patches * D * modulation_vectors(config) * modulated * E
  pixel_block += L * P * 8 * E * E
  if config.pixel_attention == 'patch':
    pixel_block += 2 * L * P * E * D + attention
  if config.pixel_adaln == 'global':
    total += L * D * E
  return 2 * (total + config.pixel_depth * pixel_block + 2 * L * P * C * E)


def train_flops(config: ModelConfig, height: int, width: int) -> int:
  """Operations of one training step on one image: backward is two forwards."""
  return 3 * forward_flops(config, height, width)
