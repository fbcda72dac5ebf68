"""Names of JiT's release (arXiv 2511.13720).

Its files hold the fixed positions of the patches, which are computed here.
"""

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
from pixeldit_jax.model.families import released_start

CONTEXT = 'in_context_posemb'
_BLOCK = 'blocks.{i}'
# R: width of the bottleneck; K: vectors of modulation; p, q: rows and
# columns of a patch.
RULES = [
  *ends(None),
  CLASS,
  Rule(
    'patch_embed/bottleneck/kernel',
    'x_embedder.proj1.weight',
    'R C p q -> (p q) C R',
  ),
  *linear('patch_embed/proj', 'x_embedder.proj2', 'D R 1 1 -> R D'),
  Rule('patch_blocks/norm1/weight', f'{_BLOCK}.norm1.weight', 'D -> D'),
  *attention('patch_blocks/attn', f'{_BLOCK}.attn', 'DNJ', bias=True),
  Rule('patch_blocks/norm2/weight', f'{_BLOCK}.norm2.weight', 'D -> D'),
  *linear('patch_blocks/mlp/up', f'{_BLOCK}.mlp.w12', '(G F) D -> D G F'),
  *linear('patch_blocks/mlp/down', f'{_BLOCK}.mlp.w3', 'D F -> F D'),
  *linear(
    'patch_blocks/adaln', f'{_BLOCK}.adaLN_modulation.1', '(M D) d -> d M D'
  ),
  Rule('output/norm/weight', 'final_layer.norm_final.weight', 'D -> D'),
  *linear('output/adaln', 'final_layer.adaLN_modulation.1', '(K D) d -> d K D'),
  *linear('output/proj', 'final_layer.linear', '(P C) D -> D P C'),
]
CONTEXT_RULE = Rule('context_embed/positions', CONTEXT, '1 T D -> T D')


def _rules(config: ModelConfig) -> list[Rule]:
  return RULES + ([CONTEXT_RULE] if config.context_tokens else [])


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  bottleneck, channels, side, _ = shapes['x_embedder.proj1.weight']
  grid, width = position_grid(shapes)
  heads = width // shapes['blocks.0.attn.q_norm.weight'][0]
  depth = shapes.count(r'blocks\.(\d+)\.attn\.')
  tokens = shapes[CONTEXT][1] if CONTEXT in shapes else 0
  context = dict(context_tokens=tokens, context_start=0)
  if tokens and 'context_start' not in known:
    context['context_start'] = released_start('jit', width, depth)
  return context | dict(
    num_classes=shapes['y_embedder.embedding_table.weight'][0] - 1,
    in_channels=channels,
    patch_size=side,
    width=width,
    heads=heads,
    patch_depth=depth,
    bottleneck=bottleneck,
    position_grid=grid,
  )


def _check(config: ModelConfig) -> None:
  """Raises UserError for a network that the files cannot hold."""
  for name in ('position_grid', 'bottleneck'):
    if not getattr(config, name):
      raise UserError(
        f'model.{name}=0: the files of JiT have such weights; set it.'
      )


RELEASE = Release(
  marks=(r'x_embedder\.proj1\.weight', r'blocks\.0\.mlp\.w12\.weight'),
  fields_of=_fields_of,
  rules=_rules,
  sizes=lambda config: (
    sizes(config)
    | dict(
      K=2,
      R=config.bottleneck,
      T=config.context_tokens,
      p=config.patch_size,
      q=config.patch_size,
    )
  ),
  before=without_positions,
  after=with_positions,
  check=_check,
)
