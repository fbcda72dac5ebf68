"""Adapters in files as the community has them: NAME.lora_A.weight, lora_B.

NAME is that of the released layer behind 'diffusion_model.', as ComfyUI reads
it; without it, or behind 'transformer.' or 'base_model.model.', they are read
too. A file of `NAME.alpha` has it over the rank as its scale. What is added to
the table of classes is `NAME.diff`, of its size.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pixeldit_jax.convert.lazy import LazyTensors, flat, nested
from pixeldit_jax.convert.official import native_of, released_of
from pixeldit_jax.convert.safetensors import read_safetensors, write_safetensors
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.lora import delta, split_adapters
from pixeldit_jax.typing import Float, PyTree

PREFIX = 'diffusion_model.'
_PREFIXES = (PREFIX, 'transformer.', 'base_model.model.')
_A, _B = '.lora_A.weight', '.lora_B.weight'
_WEIGHT, _ALPHA, _DIFF = '.weight', '.alpha', '.diff'
_TABLE, _ROWS = 'class_embed/table', 'class_embed/lora_rows'


def write_adapters(
  path: str | os.PathLike, native: LazyTensors, config: ModelConfig
) -> None:
  """Writes the adapters of a network alone, their scale within B.

  Args:
    path: the `.safetensors` to write.
    native: the weights of a run by path, adapters among them.
    config: of the network.

  Raises:
    UserError: there are none, or the release has no names for the network.
  """
  layers, rest = split_adapters(native)
  if not layers:
    raise UserError(
      'the run has no adapters: it was trained without lora.rank.'
    )
  changed = {k: _added(native, layer, config) for k, layer in layers.items()}
  found: dict[str, np.ndarray] = {}
  for name, value in _released_change(native, rest, config, changed):
    if value.ndim != 2:
      continue
    u, s, vt = np.linalg.svd(value, full_matrices=False)
    r = config.lora_rank
    found[name + _A] = np.ascontiguousarray(vt[:r])
    found[name + _B] = np.ascontiguousarray(u[:, :r] * s[:r])
  if _ROWS in native:
    rows = {_TABLE: native[_ROWS]}
    for name, value in _released_change(native, rest, config, rows):
      found[name + _DIFF] = value
  if not found:
    raise UserError('the adapters of this run are all 0: train it first.')
  write_safetensors(path, found)


def _released_change(
  native: LazyTensors,
  rest: Sequence[str],
  config: ModelConfig,
  changed: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
  """The released layers that change, by their names in files, and how."""
  # Released names are those of layers: what is added takes the way of a layer.
  tensors = {
    name: np.zeros(native.specs[name].shape, np.float32) for name in rest
  } | dict(changed)
  released = released_of(flat(nested(tensors)), without_adapters(config))
  for name in released:
    if (value := released[name]).any():
      yield PREFIX + name.removesuffix(_WEIGHT), value


def with_adapters_added(
  native: LazyTensors, config: ModelConfig
) -> LazyTensors:
  """The weights of a run by path, its adapters added to their kernels."""
  layers, rest = split_adapters(native)
  if not layers:
    return native

  def read(name):
    if name == _TABLE and _ROWS in native:
      return native[name] + native[_ROWS]
    if name not in layers:
      return native[name]
    return native[name] + _added(native, layers[name], config)

  return LazyTensors({name: native.specs[name] for name in rest}, read)


def _added(
  native: LazyTensors, layer: str, config: ModelConfig
) -> Float[np.ndarray, '...']:
  """What a layer's adapters add to its kernel."""
  scale = (config.lora_alpha or config.lora_rank) / config.lora_rank
  return delta(native[f'{layer}/lora_a'], native[f'{layer}/lora_b'], scale)


def add_adapters(
  weights: PyTree, config: ModelConfig, files: Mapping[str, float]
) -> PyTree:
  """The weights of a network with adapters from files added.

  Args:
    weights: nested, in host memory.
    config: of the network.
    files: the scale of each by its path.

  Raises:
    UserError: a file is of another network, or of another form.
  """
  config = without_adapters(config)
  released = released_of(flat(weights), config)
  added = _sum(files, released)

  def add(name, array):
    return array + added[name] if name in added else array

  return nested(dict(native_of(released.mapped(add), config)))


def without_adapters(config: ModelConfig) -> ModelConfig:
  """The same network, as it is once they are added."""
  return dataclasses.replace(
    config, lora_rank=0, lora_alpha=0.0, lora_classes=False
  )


def _sum(
  files: Mapping[str, float], released: LazyTensors
) -> dict[str, np.ndarray]:
  """What all files add, by the name of the released tensor."""
  added: dict[str, np.ndarray] = {}
  for path, weight in files.items():
    tensors = read_safetensors(path)
    pairs = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    changes = {n: tensors[n] for n in tensors if n.endswith(_DIFF)}
    if not pairs and not changes:
      raise UserError(
        f'{path} holds no adapters: expected names that end in {_A}.'
      )
    for pair in pairs:
      a, b = (tensors[pair + end].astype(np.float32) for end in (_A, _B))
      if pair + _ALPHA in tensors:
        b = b * np.float32(float(tensors[pair + _ALPHA]) / len(a))
      changes[pair] = b @ a
    for layer, change in changes.items():
      name = _released(layer.removesuffix(_DIFF)) + _WEIGHT
      if name not in released or released.specs[name].shape != change.shape:
        raise UserError(
          f'{path}: {layer} is of no layer of this network, or of another '
          'size: the adapters were trained on another one.'
        )
      change = np.float32(weight) * change.astype(np.float32)
      added[name] = added.get(name, 0) + change
  return added


def _released(pair: str) -> str:
  """The name of a layer without what loaders put before it."""
  for prefix in _PREFIXES:
    pair = pair.removeprefix(prefix)
  return pair
