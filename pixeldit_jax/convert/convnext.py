"""Weights of ConvNeXt V2 under the names of Hugging Face or of its authors."""

import os
import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert.files import find_weights, read_weights
from pixeldit_jax.convert.lazy import nested
from pixeldit_jax.encoders.convnext import ConvNeXtConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import PyTree

# A pattern of their names to ours; the numbers are those of stage and block.
_NAMES = {
  # Hugging Face; the prefix is absent from files of the network alone.
  r'embeddings\.patch_embeddings': 'patches0',
  r'embeddings\.layernorm': 'norm0',
  r'encoder\.stages\.(\d)\.downsampling_layer\.0': 'norm{0}',
  r'encoder\.stages\.(\d)\.downsampling_layer\.1': 'patches{0}',
  r'encoder\.stages\.(\d)\.layers\.(\d+)\.dwconv': 'block{0}_{1}/depthwise',
  r'encoder\.stages\.(\d)\.layers\.(\d+)\.layernorm': 'block{0}_{1}/norm',
  r'encoder\.stages\.(\d)\.layers\.(\d+)\.pwconv1': 'block{0}_{1}/expand',
  r'encoder\.stages\.(\d)\.layers\.(\d+)\.grn': 'block{0}_{1}/response',
  r'encoder\.stages\.(\d)\.layers\.(\d+)\.pwconv2': 'block{0}_{1}/project',
  r'layernorm': 'norm',
  # The authors.
  r'downsample_layers\.0\.0': 'patches0',
  r'downsample_layers\.0\.1': 'norm0',
  r'downsample_layers\.([1-9])\.0': 'norm{0}',
  r'downsample_layers\.([1-9])\.1': 'patches{0}',
  r'stages\.(\d)\.(\d+)\.dwconv': 'block{0}_{1}/depthwise',
  r'stages\.(\d)\.(\d+)\.norm': 'block{0}_{1}/norm',
  r'stages\.(\d)\.(\d+)\.pwconv1': 'block{0}_{1}/expand',
  r'stages\.(\d)\.(\d+)\.grn': 'block{0}_{1}/response',
  r'stages\.(\d)\.(\d+)\.pwconv2': 'block{0}_{1}/project',
  r'norm': 'norm',
}
_LEAVES = dict(weight='weight', bias='bias', gamma='weight', beta='bias')


def load_convnext(
  source: str | os.PathLike, dtype: str
) -> tuple[ConvNeXtConfig, PyTree]:
  """The configuration and weights, in host memory.

  Args:
    source: a name on the hub ('facebook/convnextv2-base-22k-224'), a folder
      with `model.safetensors`, or a `.safetensors` or `.pth` file.
    dtype: of the products.

  Raises:
    MissingFileError: there are no weights.
    UserError: tensors that are no ConvNeXt V2.
  """
  path = find_weights(
    os.fspath(source),
    what='a ConvNeXt V2',
    by_name='facebook/convnextv2-base-22k-224',
    by_path='model.safetensors of that repository, or the .pth of its authors, '
    'and give the path of the file',
  )
  return from_convnext(read_weights(path), dtype)


def from_convnext(
  tensors: Mapping[str, np.ndarray], dtype: str = 'float32'
) -> tuple[ConvNeXtConfig, PyTree]:
  """`load_convnext` for tensors at hand; those of a classifier are left."""
  native = {
    path: _as_ours(path, tensors[name])
    for name in tensors
    if (path := _path_of(name))
  }
  stages = sum(f'patches{i}/kernel' in native for i in range(9))
  widths = tuple(native[f'patches{i}/kernel'].shape[-1] for i in range(stages))
  depths = tuple(
    len({path for path in native if re.match(rf'block{i}_\d+/norm/w', path)})
    for i in range(stages)
  )
  if not stages or 'norm/weight' not in native or not all(depths):
    raise UserError(
      f'{len(tensors)} tensors ({", ".join(list(tensors)[:3])}, ...) are no '
      'ConvNeXt V2: expected model.safetensors of '
      'facebook/convnextv2-base-22k-224, or a .pth of its authors.'
    )
  return ConvNeXtConfig(widths, depths, dtype), nested(native)


def _path_of(name: str) -> str | None:
  """Ours, as 'block2_0/expand/kernel'; None of what is not of the features."""
  whole, _, leaf = name.removeprefix('convnextv2.').rpartition('.')
  for pattern, ours in _NAMES.items():
    if (found := re.fullmatch(pattern, whole)) and leaf in _LEAVES:
      path, leaf = ours.format(*found.groups()), _LEAVES[leaf]
      kernel = leaf == 'weight' and re.search('patches|depth|exp|proj', path)
      return f'{path}/{"kernel" if kernel else leaf}'
  return None


def _as_ours(path: str, tensor: np.ndarray) -> np.ndarray:
  if path.endswith('kernel'):
    order = (2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)
    return np.asarray(tensor.transpose(order), np.float32)
  return np.asarray(tensor.reshape(-1), np.float32)
