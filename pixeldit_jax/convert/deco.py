"""Names of DeCo's release (arXiv 2511.19365)."""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.convert.blocks import (
  CLASS,
  Shapes,
  backbone_fields,
  ends,
  linear,
  patch_block,
  sizes,
)
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import FREQUENCIES

PATCH = 's_embedder.proj'
_BLOCK = 'dec_net.res_blocks.{i}'
# H: channels and basis of a pixel; K: vectors of modulation.
RULES = [
  *ends(PATCH),
  CLASS,
  *patch_block(),
  *linear('pixel_embed/basis/proj', 'x_embedder.embedder.0', 'E H -> H E'),
  *linear('pixel_embed/proj', 'dec_net.input_proj', 'E e -> e E'),
  *linear('pixel_condition/proj', 'dec_net.cond_embed', '(P E) D -> D P E'),
  Rule('pixel_blocks/norm/weight', f'{_BLOCK}.in_ln.weight', 'E -> E'),
  Rule('pixel_blocks/norm/bias', f'{_BLOCK}.in_ln.bias', 'E -> E'),
  *linear('pixel_blocks/up', f'{_BLOCK}.mlp.0', 'E e -> e E'),
  *linear('pixel_blocks/down', f'{_BLOCK}.mlp.2', 'E e -> e E'),
  *linear(
    'pixel_blocks/adaln', f'{_BLOCK}.adaLN_modulation.1', '(K E) e -> e K E'
  ),
  *linear('output/proj', 'dec_net.final_layer.linear', 'C E -> E C'),
]


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  del known
  channels, pixel_width = shapes['dec_net.final_layer.linear.weight']
  return backbone_fields(shapes, PATCH, channels) | dict(
    pixel_width=pixel_width,
    pixel_depth=shapes.count(r'dec_net\.res_blocks\.(\d+)\.'),
  )


def _rules(config: ModelConfig) -> list[Rule]:
  del config
  return RULES


def _sizes(config: ModelConfig) -> dict[str, int]:
  return sizes(config) | dict(H=config.in_channels + FREQUENCIES**2, K=3)


RELEASE = Release(
  marks=(r'dec_net\.',), fields_of=_fields_of, rules=_rules, sizes=_sizes
)
