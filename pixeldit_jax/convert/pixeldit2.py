"""Names of PixelDiT2's release (arXiv 2609.24919).

The released files have no encoder; those of training have, and it is left out.
"""

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
from pixeldit_jax.convert.lazy import LazyTensors
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import released_start
from pixeldit_jax.model.grounding import projector_config

PATCH = 's_embedder.proj'
CONTEXT = 'in_context_posemb'
ENCODER = 'dino_conditioner.encoder.'
PROJECTOR = 'dino_conditioner.dino_proj'
ADALN = 'adaLN_modulation.1'
# K: vectors of modulation; Q: width of the encoder; n, j and f are N, J and F
# of the projector's blocks.
RULES = [
  *ends(PATCH),
  CLASS,
  *patch_block(name='patch_blocks.{i}', adaln=ADALN),
  Rule('output/norm/weight', 'final_layer.norm.weight', 'D -> D'),
  *linear('output/adaln', f'final_layer.{ADALN}', '(K D) d -> d K D'),
  *linear('output/proj', 'final_layer.linear', '(P C) D -> D P C'),
]
CONTEXT_RULE = Rule('context_embed/positions', CONTEXT, '1 T D -> T D')
GROUNDING_RULES = [
  *linear('grounding/input', f'{PROJECTOR}.input_proj', 'D Q -> Q D'),
  *linear(
    'grounding/time_embed/up', f'{PROJECTOR}.t_embedder.mlp.0', 'D X -> X D'
  ),
  *linear(
    'grounding/time_embed/down', f'{PROJECTOR}.t_embedder.mlp.2', 'D d -> d D'
  ),
  *patch_block(
    'grounding/blocks',
    PROJECTOR + '.blocks.{i}',
    adaln=ADALN,
    letters='njf',
  ),
  *linear('grounding/output', f'{PROJECTOR}.output_proj', 'D d -> d D'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  rules = list(RULES)
  if config.context_tokens:
    rules.append(CONTEXT_RULE)
  return rules + GROUNDING_RULES


def _sizes(config: ModelConfig) -> dict[str, int]:
  blocks = projector_config(config)
  return sizes(config) | dict(
    K=2,
    Q=config.grounding_width,
    T=config.context_tokens,
    f=blocks.mlp_width,
    j=blocks.head_size // 2,
    n=blocks.heads,
  )


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  """Fields that shapes of weights decide.

  How often SiLU is applied they do not: taken is twice, and once where the
  hidden width is rounded, as in the two released networks.
  """
  channels = known.get('in_channels', 3)
  fields = backbone_fields(shapes, PATCH, channels, 'patch_blocks')
  width, depth = fields['width'], fields['patch_depth']
  multiple = _multiple(shapes['patch_blocks.0.mlp.w1.weight'][0], width)
  heads = width // shapes[f'{PROJECTOR}.blocks.0.attn.q_norm.weight'][0]
  fields |= dict(
    mlp_multiple=multiple,
    condition_silu=1 if multiple else 2,
    grounding_width=shapes[f'{PROJECTOR}.input_proj.weight'][1],
    grounding_depth=shapes.count(rf'{PROJECTOR}\.blocks\.(\d+)\.attn\.'),
    grounding_heads=0 if heads == fields['heads'] else heads,
  )
  tokens = shapes[CONTEXT][1] if CONTEXT in shapes else 0
  fields |= dict(context_tokens=tokens, context_start=0)
  if tokens and 'context_start' not in known:
    fields['context_start'] = released_start('pixeldit2', width, depth)
  return fields


def _multiple(hidden: int, width: int) -> int:
  """The power of two that the hidden width of SwiGLU is rounded up to."""
  plain = 2 * 4 * width // 3
  if hidden == plain:
    return 0
  multiple = hidden & -hidden
  if -(-plain // multiple) * multiple != hidden:
    raise UserError(
      f'patch_blocks.0.mlp.w1.weight has {hidden} outputs: expected {plain} '
      f'for model.width={width}, or that rounded up to a power of two.'
    )
  return multiple


def _without_encoder(released: LazyTensors, config: ModelConfig) -> LazyTensors:
  """All but the encoder of a file of training."""
  del config
  names = {n: n for n in released if not n.startswith(ENCODER)}
  return released.renamed(names)


def _check(config: ModelConfig) -> None:
  """Raises UserError for a network that the files cannot hold."""
  if not config.grounding_width:
    raise UserError(
      'model.grounding_width=0: the files of PixelDiT2 have a projector of '
      'the features of an encoder; set it.'
    )


RELEASE = Release(
  marks=(r'dino_conditioner\.dino_proj\.', r'patch_blocks\.0\.adaLN'),
  fields_of=_fields_of,
  rules=_rules,
  sizes=_sizes,
  before=_without_encoder,
  check=_check,
)
