"""Names of pMF's release (arXiv 2601.22158), of its JAX code.

Paths of Flax below `net`, with slashes; kernels are [in, out].
"""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.convert.blocks import Shapes, sizes
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.mean_flow import PREFIX, TOKENS

PATCH = 'x_embedder/proj1/kernel'
POSITIONS = 'pos_embed'
TABLE = 'y_embedder/embedding_table/embedding'
# What the release calls the numbers of a step, and their tokens.
EMBEDS = {
  'h': 'h_embedder',
  'omega': 'omega_embedder',
  't_min': 'cfg_t_start_embedder',
  't_max': 'cfg_t_end_embedder',
}
TOKEN_NAMES = {name: name for name in TOKENS} | dict(label='class', h='time')
_DENSE = '_flax_linear'
# V: the released class table has this axis of 1 in front; T: positions;
# p, q: rows and columns of a patch; R: width of the bottleneck.


def _dense(path: str, name: str, pattern: str, bias: str) -> list[Rule]:
  return [
    Rule(f'{path}/kernel', f'{name}/{_DENSE}/kernel', pattern),
    Rule(f'{path}/bias', f'{name}/{_DENSE}/bias', bias),
  ]


def _blocks(path: str, name: str) -> list[Rule]:
  """A stack of blocks, whose names end in their number."""
  block = f'{name}_{{i}}'
  attention, mlp = f'{block}/attn', f'{block}/mlp'

  def kernel(name):
    return f'{name}/{_DENSE}/kernel'

  return [
    Rule(
      f'{path}/attn/qkv/kernel',
      tuple(kernel(f'{attention}/{x}_proj') for x in ('q', 'k', 'v')),
      'S D (N J i) -> D S (N i J)',
    ),
    Rule(
      f'{path}/attn/proj/kernel',
      kernel(f'{attention}/out_proj'),
      '(N J i) D -> (N i J) D',
    ),
    *(
      Rule(
        f'{path}/attn/{x}_norm/weight',
        f'{attention}/{x}_norm/kernel',
        '(J i) -> (i J)',
      )
      for x in ('q', 'k')
    ),
    Rule(
      f'{path}/mlp/up/kernel',
      (kernel(f'{mlp}/w1'), kernel(f'{mlp}/w3')),
      'G D F -> D G F',
    ),
    Rule(f'{path}/mlp/down/kernel', kernel(f'{mlp}/w2'), 'F D -> F D'),
    *(
      Rule(f'{path}/{x}/weight', f'{block}/{x}/kernel', 'D -> D')
      for x in ('norm1', 'norm2')
    ),
    *(
      Rule(f'{path}/{x}', f'{block}/{x}', 'D -> D')
      for x in ('attn_scale', 'mlp_scale')
    ),
  ]


def _branch(letter: str) -> list[Rule]:
  """The blocks of the average velocity, u, or of the velocity, v."""
  final, path = f'{letter}_final_layer', f'{letter}_output'
  return [
    *_blocks(f'{letter}_blocks', f'{letter}_heads'),
    Rule(f'{path}/norm/weight', f'{final}/norm/kernel', 'D -> D'),
    *_dense(
      f'{path}/proj', f'{final}/linear', 'D (P C) -> D P C', '(P C) -> P C'
    ),
  ]


RULES = [
  *(
    rule
    for name, released in EMBEDS.items()
    for layer, number, pattern in (
      ('up', 0, 'X D -> X D'),
      ('down', 2, 'd D -> d D'),
    )
    for rule in _dense(
      f'step_embed/{name}/{layer}',
      f'{released}/mlp/layers_{number}',
      pattern,
      'D -> D',
    )
  ),
  *(
    Rule(f'{name}_tokens', f'{released}_tokens', f'1 {count} D -> {count} D')
    for (name, released), count in zip(
      ((name, TOKEN_NAMES[name]) for name in TOKENS),
      (f't{i}' for i in range(len(TOKENS))),
    )
  ),
  Rule('class_embed/table', TABLE, '1 Y D -> Y D'),
  Rule('positions', POSITIONS, '1 T D -> T D'),
  Rule('patch_embed/bottleneck/kernel', PATCH, 'p q C R -> (p q) C R'),
  Rule('patch_embed/bottleneck/bias', 'x_embedder/proj1/bias', 'R -> R'),
  Rule('patch_embed/proj/kernel', 'x_embedder/proj2/kernel', '1 1 R D -> R D'),
  Rule('patch_embed/proj/bias', 'x_embedder/proj2/bias', 'D -> D'),
  *_blocks('patch_blocks', 'shared_blocks'),
  *_branch('u'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  return RULES + (_branch('v') if config.velocity_branch else [])


def _fields_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
  del known
  side, _, channels, bottleneck = shapes[PATCH]
  _, positions, width = shapes[POSITIONS]
  grid = round((positions - PREFIX) ** 0.5)
  if grid**2 + PREFIX != positions:
    raise UserError(
      f'{POSITIONS} has {positions} positions: expected {PREFIX} of conditions '
      'and those of a square.'
    )
  branch = shapes.count(r'u_heads_(\d+)/')
  (head_size,) = shapes['u_heads_0/attn/q_norm/kernel']
  _, hidden = shapes[f'u_heads_0/mlp/w1/{_DENSE}/kernel']
  return dict(
    num_classes=shapes[TABLE][1] - 1,
    in_channels=channels,
    patch_size=side,
    width=width,
    heads=width // head_size,
    patch_depth=shapes.count(r'shared_blocks_(\d+)/') + branch,
    branch_depth=branch,
    velocity_branch='v_final_layer/norm/kernel' in shapes,
    bottleneck=bottleneck,
    position_grid=grid,
    mlp_multiple=0 if hidden == 8 * width // 3 else 8,
  )


def _sizes(config: ModelConfig) -> dict[str, int]:
  counts = {f't{i}': count for i, count in enumerate(TOKENS.values())}
  return (
    sizes(config)
    | counts
    | dict(
      R=config.bottleneck,
      T=PREFIX + config.position_grid**2,
      p=config.patch_size,
      q=config.patch_size,
    )
  )


RELEASE = Release(
  marks=(r'u_final_layer/', r'cfg_t_start_embedder/'),
  fields_of=_fields_of,
  rules=_rules,
  sizes=_sizes,
)
