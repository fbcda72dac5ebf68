"""Parameters and floating-point operations of a configuration.

Operations count 2 for a multiply-add of a linear layer and of the two products
of attention, nothing else: the convention of the paper's table.
"""

import math

import jax

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import FREQUENCIES
from pixeldit_jax.model.decoders.pit_blocks import modulation_vectors
from pixeldit_jax.model.embed import TIME_FEATURES
from pixeldit_jax.model.grounding import projector_config
from pixeldit_jax.model.mean_flow import PREFIX, Step
from pixeldit_jax.model.pixeldit import abstract_model, weights_of


def count_parameters(config: ModelConfig) -> int:
  """The number of weights of the network."""
  weights = weights_of(abstract_model(config))
  return sum(math.prod(a.shape) for a in jax.tree.leaves(weights))


def forward_flops(
  config: ModelConfig,
  height: int,
  width: int,
  text: int | None = None,
  grounded: bool = True,
) -> int:
  """Operations of one forward pass of one image, without an encoder's.

  Args:
    config: sizes and ablations.
    height, width: of the image, in pixels.
    text: number of text tokens, by default `config.text_tokens`.
    grounded: whether a grounded network is given features; if not, all tokens
      share their modulation.

  Raises:
    UserError: sides that are not multiples of the patch.
  """
  L = math.prod(config.grid(height, width))
  T = config.text_tokens if text is None else text
  T = T if config.text_width else 0
  grounded = grounded and config.grounding_width > 0
  if config.mean_flow == 'tokens':
    return 2 * _mean_flow(config, L)
  parts = _patch_path(config, L, T, grounded) + _decoder(config, L, grounded)
  return 2 * (parts + (_grounding(config, L) if grounded else 0))


def decoder_flops(config: ModelConfig, height: int, width: int) -> int:
  """Those of `forward_flops` from the patch tokens to the pixels."""
  grounded = config.grounding_width > 0
  return 2 * _decoder(config, math.prod(config.grid(height, width)), grounded)


def _patch_path(config: ModelConfig, L: int, T: int, grounded: bool) -> int:
  """Multiply-adds up to the patch tokens; T counts the tokens of a text."""
  D, inputs = config.width, config.pixels * config.in_channels
  matrices = 2 if config.mlp == 'gelu' else 3
  embeds = 2 if config.size_embed else 1
  total = embeds * (TIME_FEATURES * D + D * D) + T * config.text_width * D
  if config.bottleneck:
    total += L * (inputs + D) * config.bottleneck
  else:
    total += L * inputs * D

  def blocks(tokens):
    block = _attention(tokens, D) + tokens * matrices * D * config.mlp_width
    modulated = tokens if grounded else 2 if T else 1
    return block + modulated * 6 * D * D

  before = config.context_start if config.context_tokens else config.patch_depth
  total += before * blocks(L + T)
  after = config.patch_depth - before
  return total + after * blocks(L + config.context_tokens)


def _mean_flow(config: ModelConfig, L: int) -> int:
  """Multiply-adds of pMF's branch of the average velocity."""
  D, inputs = config.width, config.pixels * config.in_channels
  tokens = L + PREFIX
  block = _attention(tokens, D) + tokens * 3 * D * config.mlp_width
  ends = L * ((inputs + D) * config.bottleneck + D * inputs)
  embeds = len(Step._fields) * (TIME_FEATURES * D + D * D)
  return config.patch_depth * block + ends + embeds


def _grounding(config: ModelConfig, L: int) -> int:
  """Multiply-adds from the features of an encoder to the conditions."""
  D, hidden = config.width, projector_config(config).mlp_width
  block = _attention(L, D) + L * 3 * D * hidden + 6 * D * D
  ends = TIME_FEATURES * D + D * D + L * (config.grounding_width * D + D * D)
  return ends + config.grounding_depth * block


def _decoder(config: ModelConfig, L: int, grounded: bool) -> int:
  """Multiply-adds from the patch tokens to the pixels."""
  D, E, P = config.width, config.pixel_width, config.pixels
  C, depth = config.in_channels, config.pixel_depth
  if not depth:
    modulated = (L if grounded else 1) * (config.decoder == 'linear')
    return L * D * P * config.out_channels + modulated * 2 * D * D
  if config.decoder == 'pit_blocks':
    joined = L * D * E if config.pixel_adaln == 'global' else 0
    return joined + depth * _pit_block(config, L, grounded) + 2 * L * P * C * E
  # As the authors compute: the basis of each pixel goes through the layer.
  ends = L * P * (2 * C + FREQUENCIES**2) * E
  if config.decoder == 'deco':
    condition, second = L * D * P * E, L * P * E * E
    return ends + condition + second + depth * L * P * 5 * E * E
  weights = 2 * E * E * config.field_ratio
  return ends + depth * L * (D + P) * weights


def _pit_block(config: ModelConfig, L: int, grounded: bool) -> int:
  D, E, P = config.width, config.pixel_width, config.pixels
  patches = 1 if config.pixel_adaln == 'global' and not grounded else L
  modulated = P if config.pixel_adaln == 'pixel' else 1
  total = patches * D * modulation_vectors(config) * modulated * E
  total += L * P * 8 * E * E
  if config.pixel_attention == 'none':
    return total
  A, _ = config.pixel_attention_size
  tokens = L if config.pixel_attention == 'patch' else L * P
  return total + 2 * L * P * E * A + _attention(tokens, A)


def _attention(tokens: int, width: int) -> int:
  """Multiply-adds of projections and products of attention among tokens."""
  return tokens * 4 * width**2 + 2 * tokens**2 * width


def train_flops(
  config: ModelConfig, height: int, width: int, stages: int = 1
) -> float:
  """Operations of one training step on one image: backward is two forwards.

  Args:
    config, height, width: see `forward_flops`.
    stages: of PixelFlow, which gives an image one of so many sizes; the mean.
  """
  stages = stages if config.size_embed else 1
  sizes = [(height // 2**n, width // 2**n) for n in range(stages)]
  return 3 * sum(forward_flops(config, *size) for size in sizes) / stages
