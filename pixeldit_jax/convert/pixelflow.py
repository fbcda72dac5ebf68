"""Names of PixelFlow's release (arXiv 2504.07963)."""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.convert.blocks import Shapes, linear, sizes
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import released_heads

PATCH = 'patch_embed.proj'
TABLE = 'class_embedder.embedding_table.weight'
_BLOCK = 'transformer_blocks.{i}'
_QKV = [f'{_BLOCK}.attn1.{x}_proj' for x in ('q', 'k', 'v')]


def _embed(path: str, name: str) -> list[Rule]:
  """The two layers of an embedded number."""
  return [
    *linear(f'{path}/up', f'{name}.linear_1', 'D X -> X D'),
    *linear(f'{path}/down', f'{name}.linear_2', 'D d -> d D'),
  ]


# K: vectors of modulation; p, q: rows and columns of a patch.
RULES = [
  *_embed('time_embed', 'timestep_embedder'),
  *_embed('size_embed', 'latent_size_embedder'),
  Rule('class_embed/table', TABLE, 'Y D -> Y D'),
  *linear('patch_embed/proj', PATCH, 'D C p q -> (p q) C D'),
  *linear('patch_blocks/adaln', f'{_BLOCK}.norm1.linear', '(M D) d -> d M D'),
  Rule(
    'patch_blocks/attn/qkv/kernel',
    tuple(f'{x}.weight' for x in _QKV),
    'S (N J i) D -> D S (N i J)',
  ),
  Rule(
    'patch_blocks/attn/qkv/bias',
    tuple(f'{x}.bias' for x in _QKV),
    'S (N J i) -> S (N i J)',
  ),
  *(
    Rule(
      f'patch_blocks/attn/{x}_norm/weight',
      f'{_BLOCK}.attn1.{x}_norm.weight',
      '(N J i) -> (N i J)',
    )
    for x in ('q', 'k')
  ),
  Rule(
    'patch_blocks/attn/proj/kernel',
    f'{_BLOCK}.attn1.o_proj.weight',
    'D (N J i) -> (N i J) D',
  ),
  Rule('patch_blocks/attn/proj/bias', f'{_BLOCK}.attn1.o_proj.bias', 'D -> D'),
  Rule('patch_blocks/norm2/weight', f'{_BLOCK}.norm3.weight', 'D -> D'),
  *linear('patch_blocks/mlp/up', f'{_BLOCK}.mlp.fc1', 'F D -> D F'),
  *linear('patch_blocks/mlp/down', f'{_BLOCK}.mlp.fc2', 'D F -> F D'),
  *linear('output/adaln', 'proj_out_1', '(K D) d -> d K D'),
  *linear('output/proj', 'proj_out_2', '(P C) D -> D P C'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  del config
  return RULES


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  width, channels, side, _ = shapes[f'{PATCH}.weight']
  heads = known.get('heads') or released_heads('pixelflow', width)
  return dict(
    num_classes=shapes[TABLE][0] - 1,
    in_channels=channels,
    patch_size=side,
    width=width,
    heads=heads,
    patch_depth=shapes.count(r'transformer_blocks\.(\d+)\.attn1\.'),
  )


RELEASE = Release(
  marks=(r'transformer_blocks\.0\.attn1\.q_proj\.', r'latent_size_embedder\.'),
  fields_of=_fields_of,
  rules=_rules,
  sizes=lambda config: (
    sizes(config) | dict(K=2, p=config.patch_size, q=config.patch_size)
  ),
)
