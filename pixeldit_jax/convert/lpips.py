"""Weights of LPIPS: one file of the whole, or VGG-16's and the layers' weights.

The `lpips` package stores what stands on VGG alone (`lin0.model.1.weight`,
...); a state dict of its whole module has VGG as `net.slice1.0.weight`, that of
torchvision as `features.0.weight`.
"""

import os
import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lazy import nested
from pixeldit_jax.encoders.lpips import LPIPSConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import PyTree

# `(net.slice1|features).NUMBER.weight`: numbers count pooling and ReLU too. A
# file of VGG's layers alone is read without what stands before all names.
LAYER = re.compile(r'(?:(?:(?:net\.)?slice\d|features)\.)?(\d+)\.weight')
LINEAR = re.compile(r'lin(\d)\.model\.1\.weight')
READING = 'lpips.safetensors, or vgg16.pth,vgg.pth'


def load_lpips(source: str, dtype: str) -> tuple[LPIPSConfig, PyTree]:
  """The configuration and weights, in host memory.

  Args:
    source: a file, or two with a comma between.
    dtype: of the convolutions.

  Raises:
    MissingFileError: there is no such file.
    UserError: tensors that are no LPIPS.
  """
  tensors: dict[str, np.ndarray] = {}
  for path in os.fspath(source).split(','):
    tensors |= dict(read_weights(path.strip()))
  return from_lpips(tensors, dtype)


def from_lpips(
  tensors: Mapping[str, np.ndarray], dtype: str = 'float32'
) -> tuple[LPIPSConfig, PyTree]:
  """`load_lpips` for tensors at hand."""
  layers = sorted(
    (int(found[1]), name)
    for name in tensors
    if (found := LAYER.fullmatch(name)) and tensors[name].ndim == 4
  )
  weights = sorted(name for name in tensors if LINEAR.fullmatch(name))
  stages: list[list[str]] = []
  last = None
  for number, name in layers:
    # Two apart are a convolution and its ReLU; three apart, a pooling as well.
    if last is None or number - last == 3:
      stages.append([])
    stages[-1].append(name)
    last = number
  if not stages or len(stages) != len(weights):
    raise UserError(
      f'{len(tensors)} tensors ({", ".join(list(tensors)[:3])}, ...) have '
      f'{len(stages)} stages of VGG and {len(weights)} layers of LPIPS: '
      f'expected as many of each, as in {READING}.'
    )
  native = {}
  for i, (names, weight) in enumerate(zip(stages, weights)):
    for k, name in enumerate(names):
      native[f'conv{i}_{k}/kernel'] = tensors[name].transpose(2, 3, 1, 0)
      native[f'conv{i}_{k}/bias'] = tensors[name.replace('weight', 'bias')]
    native[f'weight{i}'] = tensors[weight].reshape(-1)
  config = LPIPSConfig(
    widths=tuple(tensors[names[-1]].shape[0] for names in stages),
    depths=tuple(map(len, stages)),
    dtype=dtype,
  )
  return config, nested({k: v.astype(np.float32) for k, v in native.items()})
