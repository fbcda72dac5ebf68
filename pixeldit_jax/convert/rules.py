"""One line for each tensor: how another layout's axes become ours.

A pattern such as `'(ME)D->DME'` names the axes of their array, flattened where
they stand in parentheses, and the axes of ours. Read backwards it is the
inverse.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pixeldit_jax.convert.lazy import LazyTensors, Spec, compare, specs_of


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one of our weights is made.

  Attributes:
    path: where it stands among our weights, as 'blocks/attn/qkv/kernel'.
    names: its name in the other layout, or several whose arrays are stacked
      on a new first axis; '{i}' is the number of a block, and our weight then
      has a first axis of blocks.
    pattern: their axes, then ours, by letter.
    first: the number of the first block.
  """

  path: str
  names: str | tuple[str, ...]
  pattern: str
  first: int = 0

  def counted_from(self, first: int) -> 'Rule':
    """The same, its blocks numbered from `first` on."""
    return dataclasses.replace(self, first=first)

  def their_names(self, depth: int) -> list[list[str]]:
    """The names to stack, for each block."""
    names = [self.names] if isinstance(self.names, str) else self.names
    blocks = range(self.first, self.first + (depth if self.stacked else 1))
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
) -> LazyTensors:
  """Their arrays as ours, by path; each is made when it is asked for.

  Args:
    rules: every one of our weights once.
    weights: their arrays by name.
    sizes: the length of each axis letter.
    depths: blocks below the first part of a path, such as 'patch_blocks'.

  Raises:
    UserError: lists every tensor that is missing, extra or of another shape.
  """
  compare(_their_shapes(rules, sizes, depths), weights)
  theirs = specs_of(weights)
  by_path = {rule.path: rule for rule in rules}

  def spec(rule):
    rows = rule.their_names(_depth(rule, depths))
    dtypes = {theirs[name].dtype for row in rows for name in row}
    return Spec(_our_shape(rule, sizes, depths), np.result_type(*dtypes))

  specs = {path: spec(rule) for path, rule in by_path.items()}

  def read(path):
    rule = by_path[path]
    source, target = rule.pattern.split('->')
    ours = np.empty(*specs[path])
    rows = rule.their_names(_depth(rule, depths))
    for place, names in zip(ours if rule.stacked else ours[None], rows):
      arrays = [np.asarray(weights[name]) for name in names]
      array = arrays[0] if isinstance(rule.names, str) else np.stack(arrays)
      place[...] = rearrange(array, source, target, sizes)
    return ours

  return LazyTensors(specs, read)


def to_theirs(
  rules: Sequence[Rule],
  ours: Mapping[str, np.ndarray],
  sizes: Mapping[str, int],
  depths: Mapping[str, int],
) -> LazyTensors:
  """The inverse of `to_ours`; works on gradients and EMA as well.

  Read in their own order, each of ours is asked for once.

  Raises:
    UserError: as in `to_ours`.
  """
  compare({rule.path: _our_shape(rule, sizes, depths) for rule in rules}, ours)
  shapes = _their_shapes(rules, sizes, depths)
  ours_specs = specs_of(ours)
  specs, places = {}, {}
  for rule in rules:
    for block, row in enumerate(rule.their_names(_depth(rule, depths))):
      for part, name in enumerate(row):
        specs[name] = Spec(shapes[name], ours_specs[rule.path].dtype)
        places[name] = rule, block, part
  last: dict[str, np.ndarray] = {}  # one at most

  def read(name):
    rule, block, part = places[name]
    if rule.path not in last:
      last.clear()
      last[rule.path] = np.asarray(ours[rule.path])
    array = last[rule.path]
    source, target = rule.pattern.split('->')
    array = array[block] if rule.stacked else array
    array = rearrange(array, target, source, sizes)
    return array if isinstance(rule.names, str) else array[part]

  return LazyTensors(specs, read)


def _depth(rule: Rule, depths: Mapping[str, int]) -> int:
  return depths.get(rule.path.split('/')[0], 1)


def _our_shape(
  rule: Rule, sizes: Mapping[str, int], depths: Mapping[str, int]
) -> tuple[int, ...]:
  stack = (_depth(rule, depths),) if rule.stacked else ()
  return *stack, *_shape(rule.pattern.split('->')[1], sizes)


def _their_shapes(
  rules: Sequence[Rule], sizes: Mapping[str, int], depths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor that the rules take."""
  shapes: dict[str, tuple[int, ...]] = {}
  for rule in rules:
    shape = _shape(rule.pattern.split('->')[0], sizes)
    shape = shape if isinstance(rule.names, str) else shape[1:]
    for row in rule.their_names(_depth(rule, depths)):
      shapes.update(dict.fromkeys(row, shape))
  return shapes
