"""One line for each tensor: how the axes of a released layout become ours.

A pattern such as `'(M E) D -> D M E'` is in the notation of einops: the axes of
the released array, flattened where they stand in parentheses, then those of the
native one, of this package. Read backwards it is the inverse.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pixeldit_jax.convert.lazy import LazyTensors, Spec, compare, specs_of


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one native weight is made.

  Attributes:
    path: of the native weight, as 'blocks/attn/qkv/kernel'.
    names: its released name, or several whose arrays are stacked on a new first
      axis; '{i}' is the index of a block, and the native weight then has a
      first axis of blocks.
    pattern: released axes -> native axes.
    first: index of the first block.
  """

  path: str
  names: str | tuple[str, ...]
  pattern: str
  first: int = 0

  def counted_from(self, first: int) -> 'Rule':
    """The same, its blocks numbered from `first` on."""
    return dataclasses.replace(self, first=first)

  def released_names(self, depth: int) -> list[list[str]]:
    """The names to stack, for each block."""
    names = [self.names] if isinstance(self.names, str) else self.names
    blocks = range(self.first, self.first + (depth if self.stacked else 1))
    return [[name.format(i=i) for name in names] for i in blocks]

  @property
  def stacked(self) -> bool:
    return '{i}' in str(self.names)

  @property
  def released_axes(self) -> str:
    return self.pattern.split(' -> ')[0]

  @property
  def native_axes(self) -> str:
    return self.pattern.split(' -> ')[1]


def linear_rules(path: str, name: str, pattern: str, bias: str) -> list[Rule]:
  """The rules of a linear layer: its weight by `pattern`, and its bias."""
  return [
    Rule(f'{path}/kernel', f'{name}.weight', pattern),
    Rule(f'{path}/bias', f'{name}.bias', bias),
  ]


def norm_rules(path: str, name: str) -> list[Rule]:
  """The rules of a norm with weight and bias."""
  return [
    Rule(f'{path}/weight', f'{name}.weight', 'D -> D'),
    Rule(f'{path}/bias', f'{name}.bias', 'D -> D'),
  ]


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
  """'(M E) D' to (M * E, D); an axis may also be the number 1."""
  groups = re.findall(r'\([^)]*\)|\w+', axes)
  return tuple(
    math.prod(sizes[name] for name in _names(group)) for group in groups
  )


def rearrange(
  array: np.ndarray, source: str, target: str, sizes: Mapping[str, int]
) -> np.ndarray:
  """Unflattens by `source`, permutes, and flattens by `target`."""
  names = _names(source)
  array = array.reshape([sizes[name] for name in names])
  array = array.transpose([names.index(name) for name in _names(target)])
  return array.reshape(shape_of(target, sizes))


def _names(axes: str) -> list[str]:
  """'(M E) 1 D' to ['M', 'E', 'D']."""
  return [name for name in re.findall(r'\w+', axes) if name != '1']


def to_native(
  rules: Sequence[Rule],
  weights: Mapping[str, np.ndarray],
  sizes: Mapping[str, int],
  depths: Mapping[str, int],
) -> LazyTensors:
  """Native arrays by path; each is made when it is asked for.

  Args:
    rules: every native weight once.
    weights: released arrays by name.
    sizes: the length of each axis.
    depths: blocks below the first part of a path, such as 'patch_blocks'.

  Raises:
    UserError: lists every tensor that is missing, extra or of another shape.
  """
  compare(_released_shapes(rules, sizes, depths), weights)
  released = specs_of(weights)
  by_path = {rule.path: rule for rule in rules}

  def spec(rule):
    rows = rule.released_names(_depth(rule, depths))
    dtypes = {released[name].dtype for row in rows for name in row}
    return Spec(_native_shape(rule, sizes, depths), np.result_type(*dtypes))

  specs = {path: spec(rule) for path, rule in by_path.items()}

  def read(path):
    rule = by_path[path]
    native = np.empty(*specs[path])
    rows = rule.released_names(_depth(rule, depths))
    for block, names in zip(native if rule.stacked else native[None], rows):
      arrays = [np.asarray(weights[name]) for name in names]
      array = arrays[0] if isinstance(rule.names, str) else np.stack(arrays)
      block[...] = rearrange(array, rule.released_axes, rule.native_axes, sizes)
    return native

  return LazyTensors(specs, read)


def to_released(
  rules: Sequence[Rule],
  native: Mapping[str, np.ndarray],
  sizes: Mapping[str, int],
  depths: Mapping[str, int],
) -> LazyTensors:
  """The inverse of `to_native`; works on gradients and EMA as well.

  Read in their order, each native array is asked for once.

  Raises:
    UserError: as in `to_native`.
  """
  expected = {rule.path: _native_shape(rule, sizes, depths) for rule in rules}
  compare(expected, native)
  shapes = _released_shapes(rules, sizes, depths)
  native_specs = specs_of(native)
  specs, sources = {}, {}
  for rule in rules:
    for block, row in enumerate(rule.released_names(_depth(rule, depths))):
      for part, name in enumerate(row):
        specs[name] = Spec(shapes[name], native_specs[rule.path].dtype)
        sources[name] = rule, block, part
  last: dict[str, np.ndarray] = {}  # one at most

  def read(name):
    rule, block, part = sources[name]
    if rule.path not in last:
      last.clear()
      last[rule.path] = np.asarray(native[rule.path])
    array = last[rule.path]
    array = array[block] if rule.stacked else array
    array = rearrange(array, rule.native_axes, rule.released_axes, sizes)
    return array if isinstance(rule.names, str) else array[part]

  return LazyTensors(specs, read)


def _depth(rule: Rule, depths: Mapping[str, int]) -> int:
  return depths.get(rule.path.split('/')[0], 1)


def _native_shape(
  rule: Rule, sizes: Mapping[str, int], depths: Mapping[str, int]
) -> tuple[int, ...]:
  stack = (_depth(rule, depths),) if rule.stacked else ()
  return *stack, *shape_of(rule.native_axes, sizes)


def _released_shapes(
  rules: Sequence[Rule], sizes: Mapping[str, int], depths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor that the rules take."""
  shapes: dict[str, tuple[int, ...]] = {}
  for rule in rules:
    shape = shape_of(rule.released_axes, sizes)
    shape = shape if isinstance(rule.names, str) else shape[1:]
    for row in rule.released_names(_depth(rule, depths)):
      shapes.update(dict.fromkeys(row, shape))
  return shapes
