"""Names of PixNerd's release (arXiv 2507.23268).

One linear layer there makes both weights of a neural field; here each has its
own, so that their hidden width can be sharded. The blocks of the decoder count
on from those of the patch path.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

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
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import FREQUENCIES

PATCH = 's_embedder.proj'
GENERATOR = 'param_generator1.0'
HALVES = 'first', 'second'


def _rules(config: ModelConfig) -> list[Rule]:
  """H: channels and basis of a pixel; W: hidden width of the field."""
  name, first = 'blocks.{i}', config.patch_depth
  fields = [
    *linear(
      'pixel_blocks/first', f'{name}.{GENERATOR}.first', '(E W) D -> D E W'
    ),
    *linear(
      'pixel_blocks/second', f'{name}.{GENERATOR}.second', '(W E) D -> D W E'
    ),
    Rule('pixel_blocks/norm/weight', f'{name}.norm.weight', 'E -> E'),
  ]
  return [
    *ends(PATCH),
    CLASS,
    *patch_block(),
    *linear('pixel_embed/proj', 'x_embedder.embedder.0', 'E H -> H E'),
    *(rule.counted_from(first) for rule in fields),
    Rule('output/norm/weight', 'final_layer.norm.weight', 'E -> E'),
    *linear('output/proj', 'final_layer.linear', 'C E -> E C'),
  ]


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  del known
  channels, pixel_width = shapes['final_layer.linear.weight']
  fields = backbone_fields(shapes, PATCH, channels)
  weights, _ = shapes[f'blocks.{fields["patch_depth"]}.{GENERATOR}.weight']
  return fields | dict(
    pixel_width=pixel_width,
    pixel_depth=shapes.count(r'blocks\.(\d+)\.param_generator1\.'),
    field_ratio=weights // (2 * pixel_width**2),
  )


def _sizes(config: ModelConfig) -> dict[str, int]:
  return sizes(config) | dict(
    H=config.in_channels + FREQUENCIES**2,
    W=config.field_ratio * config.pixel_width,
  )


def _split(released: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The two halves of each generator under names of their own."""
  del config
  sources: dict[str, tuple[str, int | None]] = {}
  specs = {}
  for name, spec in released.specs.items():
    stem, _, kind = name.rpartition('.')
    if not stem.endswith(GENERATOR):
      sources[name], specs[name] = (name, None), spec
      continue
    shape = (spec.shape[0] // 2, *spec.shape[1:])
    for i, half in enumerate(HALVES):
      sources[f'{stem}.{half}.{kind}'] = name, i
      specs[f'{stem}.{half}.{kind}'] = spec._replace(shape=shape)

  def read(name):
    source, i = sources[name]
    array = released[source]
    return array if i is None else np.split(array, 2)[i]

  return LazyTensors(specs, read)


def _join(released: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The inverse of `_split`."""
  del config
  parts: dict[str, list[str]] = {}
  specs = {}
  for name, spec in released.specs.items():
    found = re.fullmatch(rf'(.*{GENERATOR})\.(?:first|second)\.(\w+)', name)
    joint = f'{found[1]}.{found[2]}' if found else name
    parts.setdefault(joint, []).append(name)
    if len(parts[joint]) == 2:
      spec = spec._replace(shape=(2 * spec.shape[0], *spec.shape[1:]))
    specs[joint] = spec
  return LazyTensors(
    specs, lambda name: np.concatenate([released[n] for n in parts[name]])
  )


RELEASE = Release(
  marks=(r'blocks\.\d+\.param_generator1\.',),
  fields_of=_fields_of,
  rules=_rules,
  sizes=_sizes,
  before=_split,
  after=_join,
)
