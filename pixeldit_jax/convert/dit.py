"""Names of DiT's release (arXiv 2212.09748)."""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.convert.blocks import (
  CLASS,
  Shapes,
  attention,
  ends,
  linear,
  sizes,
)
from pixeldit_jax.convert.positions import (
  position_grid,
  with_positions,
  without_positions,
)
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import released_heads

PATCH = 'x_embedder.proj'
_BLOCK = 'blocks.{i}'
# K: vectors of modulation; O: channels of the output; p, q: rows and columns
# of a patch.
RULES = [
  *ends(None),
  CLASS,
  *linear('patch_embed/proj', PATCH, 'D C p q -> (p q) C D'),
  *attention(
    'patch_blocks/attn', f'{_BLOCK}.attn', 'DNJ', bias=True, norms=False
  ),
  *linear('patch_blocks/mlp/up', f'{_BLOCK}.mlp.fc1', 'F D -> D F'),
  *linear('patch_blocks/mlp/down', f'{_BLOCK}.mlp.fc2', 'D F -> F D'),
  *linear(
    'patch_blocks/adaln', f'{_BLOCK}.adaLN_modulation.1', '(M D) d -> d M D'
  ),
  *linear('output/adaln', 'final_layer.adaLN_modulation.1', '(K D) d -> d K D'),
  *linear('output/proj', 'final_layer.linear', '(P O) D -> D P O'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  del config
  return RULES


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  _, channels, side, _ = shapes[f'{PATCH}.weight']
  grid, width = position_grid(shapes)
  outputs, _ = shapes['final_layer.linear.weight']
  heads = known.get('heads') or released_heads('dit', width)
  return dict(
    num_classes=shapes[str(CLASS.names)][0] - 1,
    in_channels=channels,
    patch_size=side,
    width=width,
    heads=heads,
    patch_depth=shapes.count(r'blocks\.(\d+)\.attn\.'),
    position_grid=grid,
    variance=outputs == 2 * channels * side**2,
  )


def _check(config: ModelConfig) -> None:
  """Raises UserError for a network that the files cannot hold."""
  if not config.position_grid:
    raise UserError(
      'model.position_grid=0: the files of DiT have such positions; set it.'
    )


RELEASE = Release(
  marks=(
    r'x_embedder\.proj\.weight',
    r'blocks\.0\.mlp\.fc1\.weight',
    r'pos_embed',
  ),
  fields_of=_fields_of,
  rules=_rules,
  sizes=lambda config: (
    sizes(config)
    | dict(K=2, O=config.out_channels, p=config.patch_size, q=config.patch_size)
  ),
  before=without_positions,
  after=with_positions,
  check=_check,
)
