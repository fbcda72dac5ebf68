"""Rules that several releases share: linear layers, attention, patch blocks.

Letters of the patterns, beyond those of `pixeldit_jax.typing`: J pairs of
channels in a head and i the two of a pair (neighbours in the releases, halves
in this package; see `model.rope`), X the frequencies of time, Y rows of the
class table, G the two inputs of SwiGLU, S query, key and value, V the width of
the text embeddings. Where a layer keeps a width, 'd' and 'e' are D and E as its
input.
"""

import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert.lazy import Spec, specs_of
from pixeldit_jax.convert.rules import Rule
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import TIME_FEATURES


class Shapes:
  """The shapes of a mapping of weights, by name."""

  def __init__(self, weights: Mapping[str, np.ndarray]):
    self.specs: Mapping[str, Spec] = specs_of(weights)

  def __contains__(self, name: str) -> bool:
    return name in self.specs

  def __getitem__(self, name: str) -> tuple[int, ...]:
    """Raises UserError for a name that is not among the weights."""
    if name not in self.specs:
      raise UserError(
        f'{name} is not among the {len(self.specs)} weights: expected the '
        'inner names of the release, as '
        "'patch_blocks.0.attn.qkv.weight', without a prefix such as "
        "'denoiser.'."
      )
    return self.specs[name].shape

  def count(self, pattern: str) -> int:
    """How many numbers there are in place of the group of a pattern."""
    found = (re.match(pattern, name) for name in self.specs)
    return len({m[1] for m in found if m})


def linear(path: str, name: str, pattern: str) -> list[Rule]:
  """Kernel and bias of a layer whose kernel has this pattern."""
  released, native = pattern.split(' -> ')
  output = re.findall(r'^\([^)]*\)|^\w', released)[0]
  kept = ' '.join(a for a in re.findall(r'\w', native) if a in output)
  return [
    Rule(f'{path}/kernel', f'{name}.weight', pattern),
    Rule(f'{path}/bias', f'{name}.bias', f'{output} -> {kept}'),
  ]


def attention(
  path: str,
  name: str,
  letters: str,
  stream: str = '',
  bias: bool = False,
  norms: bool = True,
) -> list[Rule]:
  """Letters of width, heads and pairs; stream '_x' or '_y' of MM-DiT."""
  D, N, J = list(letters)
  head = f'({J} i) -> (i {J})'
  qkv = f'{name}.qkv{stream}'
  kernel = f'(S {N} {J} i) {D} -> {D} S ({N} i {J})'
  proj = f'{name}.proj{stream}'
  qkv_rules = linear(f'{path}/qkv', qkv, kernel)
  if bias:
    qkv_rules[1] = Rule(
      f'{path}/qkv/bias', f'{qkv}.bias', f'(S {N} {J} i) -> S ({N} i {J})'
    )
  norm_rules = [
    Rule(f'{path}/{x}_norm/weight', f'{name}.{x}_norm{stream}.weight', head)
    for x in ('q', 'k')
  ]
  return [
    *qkv_rules[: 2 if bias else 1],
    *(norm_rules if norms else []),
    Rule(
      f'{path}/proj/kernel',
      f'{proj}.weight',
      f'{D} ({N} {J} i) -> ({N} i {J}) {D}',
    ),
    Rule(f'{path}/proj/bias', f'{proj}.bias', f'{D} -> {D}'),
  ]


def patch_block(
  path: str = 'patch_blocks',
  name: str = 'blocks.{i}',
  norm: str = 'norm',
  stream: str = '',
  adaln: str = 'adaLN_modulation.0',
  letters: str = 'NJF',
) -> list[Rule]:
  """A block without biases, as all but JiT's are.

  Args:
    path, name: native and released.
    norm, stream, adaln: parts of released names.
    letters: of heads, pairs and the hidden width.
  """
  N, J, F = list(letters)
  mlp = f'{name}.mlp{stream}'
  return [
    Rule(f'{path}/norm1/weight', f'{name}.{norm}1.weight', 'D -> D'),
    *attention(f'{path}/attn', f'{name}.attn', f'D{N}{J}', stream),
    Rule(f'{path}/norm2/weight', f'{name}.{norm}2.weight', 'D -> D'),
    Rule(
      f'{path}/mlp/up/kernel',
      (f'{mlp}.w1.weight', f'{mlp}.w3.weight'),
      f'G {F} D -> D G {F}',
    ),
    Rule(f'{path}/mlp/down/kernel', f'{mlp}.w2.weight', f'D {F} -> {F} D'),
    *linear(f'{path}/adaln', f'{name}.{adaln}', '(M D) d -> d M D'),
  ]


def ends(patch: str | None) -> list[Rule]:
  """Time, class and, under this name, the patches: all but JiT's are alike."""
  rules = [
    *linear('time_embed/up', 't_embedder.mlp.0', 'D X -> X D'),
    *linear('time_embed/down', 't_embedder.mlp.2', 'D d -> d D'),
  ]
  if patch:
    rules += linear('patch_embed/proj', patch, 'D (C P) -> P C D')
  return rules


CLASS = Rule(
  'class_embed/table', 'y_embedder.embedding_table.weight', 'Y D -> Y D'
)


def sizes(config: ModelConfig) -> dict[str, int]:
  """The length of each letter that several releases use."""
  return dict(
    C=config.in_channels,
    D=config.width,
    d=config.width,
    E=config.pixel_width,
    e=config.pixel_width,
    F=config.mlp_width,
    G=2,
    J=config.head_size // 2,
    M=6,
    N=config.heads,
    P=config.pixels,
    S=3,
    X=TIME_FEATURES,
    Y=config.num_classes + 1,
    i=2,
  )


def backbone_fields(
  shapes: Shapes, patch: str, channels: int, blocks: str = 'blocks'
) -> dict[str, int]:
  """Fields of `ModelConfig` that the patch path of a class network decides.

  Args:
    shapes: of the weights.
    patch: name of the patch embedding.
    channels: of the image.
    blocks: what the names of blocks begin with.

  Raises:
    UserError: patches that are no squares, or a tensor that is not there.
  """
  width, inputs = shapes[f'{patch}.weight']
  side = round((inputs / channels) ** 0.5)
  if side**2 * channels != inputs:
    raise UserError(
      f'{patch}.weight has {inputs} inputs, which are no square of pixels of '
      f'{channels} channels: give in_channels.'
    )
  return dict(
    num_classes=shapes['y_embedder.embedding_table.weight'][0] - 1,
    in_channels=channels,
    patch_size=side,
    width=width,
    heads=width // shapes[f'{blocks}.0.attn.q_norm.weight'][0],
    patch_depth=shapes.count(rf'{blocks}\.(\d+)\.attn\.'),
  )
