"""Reads the FID Inception network from the files that PyTorch tools use.

`pt_inception-2015-12-05-6726825d.pth` (pytorch-fid) and
`weights-inception-2015-12-05-6726825d.pth` (torch-fidelity) hold the same
tensors; the eight digits in the name begin the file's SHA-256.
"""

import hashlib
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.encoders.inception import Inception
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.storage import downloads

URL = (
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
  'pt_inception-2015-12-05-6726825d.pth'
)
_BATCH_NORM_EPS = 1e-3


def load_inception(path: str | os.PathLike) -> tuple[Inception, str]:
  """Returns the network and the SHA-256 of its file.

  Raises:
    FileNotFoundError: no such file; says where to get it.
    ImportError: PyTorch is not installed.
    UserError: the file is damaged or holds another network.
  """
  path = downloads.here(path)
  checksum = _checksum(path)
  return from_torch(dict(read_weights(path))), checksum


def from_torch(tensors: dict[str, np.ndarray]) -> Inception:
  """Builds the network from tensors named as in torchvision's Inception.

  Raises:
    UserError: a tensor is missing, left over, not finite or of another shape.
  """
  tensors = {
    name: value
    for name, value in tensors.items()
    if not name.endswith('num_batches_tracked')
  }
  tensors.pop('fc.bias', None)  # the Inception Score leaves it out
  model = nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0)))
  for name in [n for n in tensors if n.endswith('.conv.weight')]:
    layer = name.removesuffix('.conv.weight')
    kernel, bias = fold_batch_norm(tensors, layer)
    conv = _descend(model, layer).conv
    _set(conv, 'kernel', kernel, name)
    _set(conv, 'bias', bias, name)
  _set(model.fc, 'kernel', _take(tensors, 'fc.weight').T, 'fc.weight')
  if tensors:
    raise UserError(f'The FID Inception network has no {sorted(tensors)}.')
  for path, value in jax.tree.leaves_with_path(nnx.state(model)):
    if isinstance(value, jax.ShapeDtypeStruct):
      name = jax.tree_util.keystr(path[:-1], simple=True, separator='.')
      raise UserError(f'The weight file has nothing for {name}.')
  return model


def _checksum(path: str | os.PathLike) -> str:
  if not os.path.isfile(path):
    raise MissingFileError(
      f'No Inception weights at {path}. Get them once with\n  curl -L -o '
      f'{path} {URL}\nor evaluate digits offline with --features=digits.'
    )
  with open(path, 'rb') as file:
    checksum = hashlib.file_digest(file, 'sha256').hexdigest()
  named = re.search(r'-([0-9a-f]{8})\.pth$', os.fspath(path))
  if named and not checksum.startswith(named[1]):
    raise UserError(
      f'{path} has SHA-256 {checksum[:8]}..., but its name says {named[1]}: '
      f'the download is damaged. Get it again from {URL}.'
    )
  return checksum


def fold_batch_norm(tensors, layer: str) -> tuple[np.ndarray, np.ndarray]:
  """Kernel [h, w, in, out] and bias of a convolution and its batch norm."""
  weight = _take(tensors, f'{layer}.conv.weight').astype(np.float64)
  mean = _take(tensors, f'{layer}.bn.running_mean').astype(np.float64)
  variance = _take(tensors, f'{layer}.bn.running_var').astype(np.float64)
  scale = _take(tensors, f'{layer}.bn.weight').astype(np.float64)
  scale = scale / np.sqrt(variance + _BATCH_NORM_EPS)
  bias = _take(tensors, f'{layer}.bn.bias') - mean * scale
  return weight.transpose(2, 3, 1, 0) * scale, bias


def _take(tensors, name: str) -> np.ndarray:
  if name not in tensors:
    raise UserError(f'The weight file has no {name}.')
  return tensors.pop(name)


def _descend(model: Inception, layer: str):
  module: Any = model
  for part in layer.lower().split('.'):
    module = getattr(module, part, None)
  if module is None:
    raise UserError(f'The FID Inception network has no {layer}.')
  return module


def _set(module, attribute: str, value: np.ndarray, name: str):
  expected = getattr(module, attribute).shape
  if value.shape != expected:
    raise UserError(
      f'{name} gives a {attribute} of shape {value.shape}, expected '
      f"{expected}. The FID network has 1,008 classes; torchvision's "
      f'1,000-class Inception is another one. Get it from {URL}.'
    )
  if not np.isfinite(value).all():
    raise UserError(f'{name} has values that are not finite.')
  setattr(module, attribute, nnx.Param(jnp.asarray(value, jnp.float32)))
