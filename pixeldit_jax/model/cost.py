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
  """The number of weights of the network."""
  weights = weights_of(abstract_model(config))
  return sum(math.prod(a.shape) for a in jax.tree.leaves(weights))


def forward_flops(
  config: ModelConfig, height: int, width: int, text: int | None = None
) -> int:
  """Operations of one forward pass of one image.

  Args:
    config: sizes and ablations.
    height, width: of the image, in pixels.
    text: number of text tokens, by default `config.text_tokens`.

  Raises:
    UserError: sides that are not multiples of the patch.
  """
  L = math.prod(config.grid(height, width))
  T = config.text_tokens if text is None else text
  T = T if config.text_width else 0
  D, E, P = config.width, config.pixel_width, config.pixels
  C = config.in_channels
  patch_block = _attention(L + T, D) + (L + T) * 3 * D * config.mlp_width
  patch_block += (2 if T else 1) * 6 * D * D
  total = L * P * C * D + TIME_FEATURES * D + D * D + T * config.text_width * D
  total += config.patch_depth * patch_block
  if not config.pixel_depth:
    return 2 * (total + L * D * P * C)
  patches = 1 if config.pixel_adaln == 'global' else L
  modulated = P if config.pixel_adaln == 'pixel' else 1
  pixel_block = patches * D * modulation_vectors(config) * modulated * E
  pixel_block += L * P * 8 * E * E
  if config.pixel_attention != 'none':
    A, _ = config.pixel_attention_size
    tokens = L if config.pixel_attention == 'patch' else L * P
    pixel_block += 2 * L * P * E * A + _attention(tokens, A)
  if config.pixel_adaln == 'global':
    total += L * D * E
  return 2 * (total + config.pixel_depth * pixel_block + 2 * L * P * C * E)


def _attention(tokens: int, width: int) -> int:
  """Multiply-adds of projections and products of attention among tokens."""
  return tokens * 4 * width**2 + 2 * tokens**2 * width


def train_flops(config: ModelConfig, height: int, width: int) -> int:
  """Operations of one training step on one image: backward is two forwards."""
  return 3 * forward_flops(config, height, width)
