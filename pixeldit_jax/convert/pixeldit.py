"""Names of the releases of PixelDiT, class-conditional and text.

The text-to-image release predicts noise - image, so its last layer changes
sign here; that it counts time as 1000 (1 - t) is `ModelConfig.time`.

Letters of the patterns, beyond those of `convert.blocks`: O = 4E, m the
modulations of the pixel path, A, n and j are D, N and J of its attention.
"""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.convert.blocks import (
  CLASS,
  Shapes,
  attention,
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

PATCH = 's_embedder.proj'


def _pixel_block(path: str, name: str) -> list[Rule]:
  return [
    Rule(f'{path}/norm1/weight', f'{name}.norm1.weight', 'E -> E'),
    *linear(
      f'{path}/attn/compact', f'{name}.compress_to_attn', 'A (P E) -> P E A'
    ),
    *attention(f'{path}/attn/attn', f'{name}.attn', 'Anj'),
    *linear(
      f'{path}/attn/expand', f'{name}.expand_from_attn', '(P E) A -> A P E'
    ),
    Rule(f'{path}/norm2/weight', f'{name}.norm2.weight', 'E -> E'),
    *linear(f'{path}/mlp/up', f'{name}.mlp.fc1', 'O E -> E O'),
    *linear(f'{path}/mlp/down', f'{name}.mlp.fc2', 'E O -> O E'),
    *linear(
      f'{path}/adaln', f'{name}.adaLN_modulation.0', '(P m E) D -> D m P E'
    ),
  ]


_BLOCK = 'patch_blocks.{i}'
_CLASS_RULES = [CLASS, *patch_block(name=_BLOCK)]
_TEXT_RULES = [
  *linear('text_embed/proj', 'y_embedder.proj', 'D V -> V D'),
  Rule('text_embed/norm/weight', 'y_embedder.norm.weight', 'D -> D'),
  Rule('text_embed/positions', 'y_pos_embedding', '1 T D -> T D'),
  *patch_block(
    'patch_blocks/image', _BLOCK, 'norm_x', '_x', 'adaLN_modulation_img.0'
  ),
  *patch_block(
    'patch_blocks/text', _BLOCK, 'norm_y', '_y', 'adaLN_modulation_txt.0'
  ),
]
_SHARED_RULES = [
  *ends(PATCH),
  *linear('pixel_embed/proj', 'pixel_embedder.proj', 'E C -> C E'),
  *_pixel_block('pixel_blocks', 'pixel_blocks.{i}'),
  Rule('output/norm/weight', 'final_layer.norm.weight', 'E -> E'),
  *linear('output/proj', 'final_layer.linear', 'C E -> E C'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  return _SHARED_RULES + (_TEXT_RULES if config.text_width else _CLASS_RULES)


def _sizes(config: ModelConfig) -> dict[str, int]:
  attention_width, attention_heads = config.pixel_attention_size
  return sizes(config) | dict(
    A=attention_width,
    O=4 * config.pixel_width,
    T=config.text_tokens,
    V=config.text_width,
    j=attention_width // attention_heads // 2,
    n=attention_heads,
    m=4 if config.modulation == 'post' else 6,
  )


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  del known
  pixel_width, channels = shapes['pixel_embedder.proj.weight']
  if 'y_embedder.proj.weight' in shapes:
    fields = _text_fields(shapes, channels)
  else:
    fields = backbone_fields(shapes, PATCH, channels, 'patch_blocks')
  pixels = fields['patch_size'] ** 2
  attention_width, _ = shapes['pixel_blocks.0.compress_to_attn.weight']
  (head_size,) = shapes['pixel_blocks.0.attn.q_norm.weight']
  modulation, _ = shapes['pixel_blocks.0.adaLN_modulation.0.weight']
  return fields | dict(
    pixel_width=pixel_width,
    pixel_depth=shapes.count(r'pixel_blocks\.(\d+)\.'),
    pixel_attention_width=attention_width,
    pixel_heads=attention_width // head_size,
    modulation='post' if modulation == 4 * pixels * pixel_width else 'pre',
  )


def _text_fields(shapes: Shapes, channels: int) -> dict[str, Any]:
  width, inputs = shapes[f'{PATCH}.weight']
  (head_size,) = shapes['patch_blocks.0.attn.q_norm_x.weight']
  return dict(
    num_classes=0,
    text_width=shapes['y_embedder.proj.weight'][1],
    text_tokens=shapes['y_pos_embedding'][1],
    time='noise',
    zero_modulation=False,
    in_channels=channels,
    patch_size=round((inputs // channels) ** 0.5),
    width=width,
    heads=width // head_size,
    patch_depth=shapes.count(r'patch_blocks\.(\d+)\.'),
  )


def _turned(tensors: LazyTensors, config: ModelConfig) -> LazyTensors:
  """Of a text network the opposite velocity: the last layer's sign changes."""
  if not config.text_width:
    return tensors
  return tensors.mapped(
    lambda name, a: -a if name.startswith('final_layer.linear.') else a
  )


def _check(config: ModelConfig) -> None:
  """Raises UserError for a network that the release cannot express."""
  time = 'noise' if config.text_width else 'unit'
  if config.time != time:
    raise UserError(
      f'model.time={config.time!r}: the code of the release counts time as '
      f'{time!r} and cannot run these weights. Here the workdir itself can be '
      'copied, sampled and trained on (--config.init_from); a run that is to '
      f'be released needs --config.model.time={time} from the start.'
    )
  if not config.pixel_depth:
    raise UserError('model.pixel_depth=0: the release has no single level.')


RELEASE = Release(
  marks=(r'pixel_embedder\.proj\.weight',),
  fields_of=_fields_of,
  rules=_rules,
  sizes=_sizes,
  before=_turned,
  after=_turned,
  check=_check,
)
