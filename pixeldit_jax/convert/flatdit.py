"""Names of the plain pixel DiT that DeCo's authors compare with."""

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

PATCH = 'x_embedder.proj'
RULES = [
  *ends(PATCH),
  CLASS,
  *patch_block(),
  *linear('output/adaln', 'final_layer.adaLN_modulation.0', '(K D) d -> d K D'),
  *linear('output/proj', 'final_layer.linear', '(C P) D -> D P C'),
]


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  return backbone_fields(shapes, PATCH, known.get('in_channels', 3))


def _rules(config: ModelConfig) -> list[Rule]:
  del config
  return RULES


RELEASE = Release(
  marks=(
    r'x_embedder\.proj\.weight',
    r'blocks\.0\.mlp\.w1\.weight',
    r'final_layer\.adaLN_modulation\.0\.weight',
  ),
  fields_of=_fields_of,
  rules=_rules,
  sizes=lambda config: sizes(config) | dict(K=2),
)
