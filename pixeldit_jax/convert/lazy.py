"""Tensors in a file, read one at a time, and files written whole or not."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Spec(NamedTuple):
  """What is known of a tensor without reading it."""

  shape: tuple[int, ...]
  dtype: np.dtype


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


def specs_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Spec]:
  """Shapes and dtypes of a mapping, one tensor in memory at a time."""
  if isinstance(tensors, LazyTensors):
    return tensors.specs

  def spec(array):
    return Spec(tuple(array.shape), np.dtype(array.dtype))

  return {name: spec(tensors[name]) for name in tensors}


@contextlib.contextmanager
def written_beside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A path to write to, renamed to `path` at the end, or removed on failure."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hosts may share the folder, and have processes of one number.
  part = path.with_name(f'{path.name}.{uuid.uuid4().hex}.part')
  try:
    yield part
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
