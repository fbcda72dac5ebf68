"""One line for each tensor: how another layout's axes become ours.

A pattern such as `'(ME)D->DME'` names the axes of their array, flattened where
they stand in parentheses, and the axes of ours. Read backwards it is the
inverse.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one of our weights is made.

  Attributes:
    path: where it stands among our weights, as 'blocks/attn/qkv/kernel'.
    names: its name in the other layout, or several whose arrays are stacked
      on a new first axis; '{i}' is the number of a block, and our weight then
      has a first axis of blocks.
    pattern: their axes, then ours, by letter.
  """

  path: str
  names: str | tuple[str, ...]
  pattern: str

  def their_names(self, depth: int) -> list[list[str]]:
    """The names to stack, for each block."""
    names = [self.names] if isinstance(self.names, str) else self.names
    blocks = range(depth if self.stacked else 1)
    return [[name.format(i=i) for name in names] for i in blocks]

  @property
  def stacked(self) -> bool:
    return '{i}' in str(self.names)


def _shape(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
  """'(ME)D' to (M * E, D)."""
  groups = re.findall(r'\(\w+\)|\w', axes)
  return tuple(
    int(np.prod([sizes[letter] for letter in group.strip('()')]))
    for group in groups
  )


def rearrange(
  array: np.ndarray, source: str, target: str, sizes: Mapping[str, int]
) -> np.ndarray:
  """Unflattens by `source`, permutes, and flattens by `target`."""
  letters, wanted = (re.sub(r'[()]', '', axes) for axes in (source, target))
  array = array.reshape([sizes[letter] for letter in letters])
  array = array.transpose([letters.index(letter) for letter in wanted])
  return array.reshape(_shape(target, sizes))


def to_ours(
  rules: Sequence[Rule],
  weights: Mapping[str, np.ndarray],
  sizes: Mapping[str, int],
  depths: Mapping[str, int],
) -> dict:
  """Their arrays to a nested dict of ours.

  Args:
    rules: every one of our weights once.
    weights: their arrays by name.
    sizes: the length of each axis letter.
    depths: blocks below the first part of a path, such as 'patch_blocks'.

  Raises:
    ValueError: names that are missing or that no rule takes, or other shapes.
  """
  check_names(rules, weights, sizes, depths)
  ours: dict = {}
  for rule in rules:
    source, target = rule.pattern.split('->')
    blocks = []
    for names in rule.their_names(depths.get(rule.path.split('/')[0], 1)):
      arrays = [np.asarray(weights[name]) for name in names]
      array = arrays[0] if isinstance(rule.names, str) else np.stack(arrays)
      blocks.append(rearrange(array, source, target, sizes))
    *parents, last = rule.path.split('/')
    node = ours
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = np.stack(blocks) if rule.stacked else blocks[0]
  return ours


def to_theirs(
  rules: Sequence[Rule],
  ours: Mapping,
  sizes: Mapping[str, int],
  depths: Mapping[str, int],
) -> dict[str, np.ndarray]:
  """The inverse of `to_ours`; works on gradients and EMA as well."""
  theirs = {}
  for rule in rules:
    array = ours
    for part in rule.path.split('/'):
      array = array[part]
    array = np.asarray(array)
    source, target = rule.pattern.split('->')
    names = rule.their_names(depths.get(rule.path.split('/')[0], 1))
    for block, row in zip(array if rule.stacked else [array], names):
      block = rearrange(block, target, source, sizes)
      blocks = [block] if isinstance(rule.names, str) else block
      theirs.update(zip(row, blocks))
  return theirs


def check_names(rules, weights, sizes, depths) -> None:
  """Raises one ValueError that lists all that does not fit."""
  expected = {}
  for rule in rules:
    shape = _shape(rule.pattern.split('->')[0], sizes)
    shape = shape if isinstance(rule.names, str) else shape[1:]
    for row in rule.their_names(depths.get(rule.path.split('/')[0], 1)):
      expected.update(dict.fromkeys(row, shape))
  problems = [f'missing: {name}' for name in expected if name not in weights]
  problems += [f'not known: {name}' for name in weights if name not in expected]
  problems += [
    f'shape {tuple(weights[name].shape)} in place of {shape}: {name}'
    for name, shape in expected.items()
    if name in weights and tuple(weights[name].shape) != shape
  ]
  if problems:
    listed = '\n  '.join(problems[:20])
    more = f'\n  and {len(problems) - 20} more' if len(problems) > 20 else ''
    raise ValueError(f'the weights do not fit this network:\n  {listed}{more}')
