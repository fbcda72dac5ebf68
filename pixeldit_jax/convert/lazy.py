"""Reads the tensors of a file one at a time, and writes complete files."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import PyTree

LISTED = 40  # of the tensors that do not fit, of each kind


class Spec(NamedTuple):
  """What is known of a tensor without reading it."""

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


class LazyTensors(Mapping[str, np.ndarray]):
  """Names to NumPy arrays, each read when it is asked for and not kept.

  Attributes:
    specs: shape and dtype of each, known without reading.
  """

  def __init__(
    self, specs: Mapping[str, Spec], read: Callable[[str], np.ndarray]
  ):
    self.specs = dict(specs)
    self._read = read

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self.specs:
      raise KeyError(name)
    return self._read(name)

  def __contains__(self, name: object) -> bool:
    return name in self.specs  # Mapping's own would read the tensor

  def __iter__(self) -> Iterator[str]:
    return iter(self.specs)

  def __len__(self) -> int:
    return len(self.specs)

  def renamed(self, names: Mapping[str, str]) -> 'LazyTensors':
    """The same tensors under other names: new name to the name here."""
    specs = {new: self.specs[old] for new, old in names.items()}
    return LazyTensors(specs, lambda name: self._read(names[name]))

  def mapped(
    self,
    fn: Callable[[str, np.ndarray], np.ndarray],
    dtype: np.dtype | None = None,
  ) -> 'LazyTensors':
    """f(name, array) in place of each array, of the same shape.

    `dtype` is that of the results, if it is another one.
    """
    specs = {
      name: Spec(spec.shape, dtype or spec.dtype)
      for name, spec in self.specs.items()
    }
    return LazyTensors(specs, lambda name: fn(name, self._read(name)))

  def cast(self, dtype: str) -> 'LazyTensors':
    """The same tensors in another precision, such as 'bfloat16'."""
    to = np.dtype(dtype)
    return self.mapped(lambda _, array: array.astype(to, copy=False), to)


def specs_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Spec]:
  """Shapes and dtypes of a mapping, one tensor in memory at a time."""
  if isinstance(tensors, LazyTensors):
    return tensors.specs

  def spec(array):
    return Spec(tuple(array.shape), np.dtype(array.dtype))

  return {name: spec(tensors[name]) for name in tensors}


def nested(tensors: Mapping[str, Any]) -> PyTree:
  """'a/b' to arrays as dicts of dicts of arrays."""
  return traverse_util.unflatten_dict(dict(tensors), sep='/')


def flat(tree: PyTree) -> LazyTensors:
  """The inverse of `nested`."""
  found = traverse_util.flatten_dict(tree, sep='/')
  return LazyTensors(specs_of(found), found.__getitem__)


def compare(
  expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray]
) -> None:
  """Checks names and shapes before anything is read.

  Args:
    expected: name to shape.
    found: arrays, `LazyTensors`, or anything with shapes.

  Raises:
    UserError: lists the tensors that are missing, extra or of another shape.
  """
  shapes = {name: spec.shape for name, spec in specs_of(found).items()}
  missing = [
    f'missing: {name} {tuple(shape)}'
    for name, shape in expected.items()
    if name not in shapes
  ]
  extra = [
    f'extra: {name} {shape}'
    for name, shape in shapes.items()
    if name not in expected
  ]
  other = [
    f'other shape: {name} is {shapes[name]}, expected {tuple(shape)}'
    for name, shape in expected.items()
    if name in shapes and shapes[name] != tuple(shape)
  ]
  if count := len(missing + extra + other):
    shown = []
    for lines in (missing, extra, other):
      shown += lines[:LISTED]
      if len(lines) > LISTED:
        shown.append(f'{lines[0].split(":")[0]}: {len(lines) - LISTED} more')
    raise UserError(f'{count} tensors do not fit:\n  ' + '\n  '.join(shown))
