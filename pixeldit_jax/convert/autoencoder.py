"""Names of an autoencoder's weights: diffusers', its older ones, CompVis'."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from pixeldit_jax.convert.blocks import Shapes
from pixeldit_jax.convert.files import find_weights, read_weights
from pixeldit_jax.convert.lazy import compare
from pixeldit_jax.encoders.autoencoder import (
  Autoencoder,
  AutoencoderConfig,
  abstract_autoencoder,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import downloads

AUTOENCODER = 'sdvae'  # the family, for `from_official`
MARK = re.compile(r'(first_stage_model\.)?decoder\.conv_in\.weight')
# Names of CompVis' files, of diffusers' older ones, and ours.
RENAMED = [
  (r'^first_stage_model\.', ''),
  (r'\.down\.(\d+)\.block\.', r'.down_blocks.\1.resnets.'),
  (r'\.down\.(\d+)\.downsample\.', r'.down_blocks.\1.downsamplers.0.'),
  (r'\.up\.(\d+)\.block\.', r'.up.\1.resnets.'),
  (r'\.up\.(\d+)\.upsample\.', r'.up.\1.upsamplers.0.'),
  (r'\.mid\.block_1\.', '.mid_block.resnets.0.'),
  (r'\.mid\.block_2\.', '.mid_block.resnets.1.'),
  (r'\.mid\.attn_1\.', '.mid_block.attentions.0.'),
  (r'\.nin_shortcut\.', '.conv_shortcut.'),
  (r'coder\.norm_out\.', 'coder.conv_norm_out.'),
  (r'(attentions\.0)\.norm\.', r'\1.group_norm.'),
  (r'(attentions\.0)\.(?:q|query)\.', r'\1.to_q.'),
  (r'(attentions\.0)\.(?:k|key)\.', r'\1.to_k.'),
  (r'(attentions\.0)\.(?:v|value)\.', r'\1.to_v.'),
  (r'(attentions\.0)\.(?:proj_out|proj_attn)\.', r'\1.to_out.0.'),
]
# What config.json of diffusers calls the fields, and what says nothing more.
PUBLIC_NAMES = {
  'in_channels': 'channels',
  'block_out_channels': 'widths',
  'layers_per_block': 'blocks',
  'norm_num_groups': 'groups',
  'scaling_factor': 'scale',
}
# Of 1x1 convolutions in CompVis' files, of linear layers in ours.
ATTENTION = re.compile(r'.*\.to_(q|k|v|out\.0)\.weight')


def is_autoencoder(names: Mapping[str, Any]) -> bool:
  """Whether tensors have names of an autoencoder."""
  return any(MARK.fullmatch(name) for name in names)


def from_autoencoder(
  weights: Mapping[str, np.ndarray], **overrides
) -> Autoencoder:
  """The autoencoder that holds weights under names of any of the layouts.

  Args:
    weights: names to arrays; those of a loss beside the network are left out.
    overrides: fields of `AutoencoderConfig` that weights do not tell (`groups`,
      `scale`, `dtype`), also by the names of diffusers' configurations.

  Raises:
    UserError: names or shapes that do not fit, all of them listed.
  """
  weights = _standard(weights)
  overrides = {PUBLIC_NAMES.get(k, k): v for k, v in overrides.items()}
  if unknown := overrides.keys() - AutoencoderConfig.__dataclass_fields__:
    raise UserError(
      f'{", ".join(sorted(unknown))}: no field of an autoencoder; there are '
      f'{", ".join(AutoencoderConfig.__dataclass_fields__)}.'
    )
  if 'widths' in overrides:
    overrides['widths'] = tuple(overrides['widths'])
  config = AutoencoderConfig(**(_fields_of(weights) | overrides))
  graphdef, abstract = nnx.split(abstract_autoencoder(config))
  native = traverse_util.flatten_dict(nnx.to_pure_dict(abstract))
  names = {path: _name(path) for path in native}
  shapes = {
    names[path]: _released(np.broadcast_to(0, a.shape)).shape
    for path, a in native.items()
  }
  found = {
    name: array.reshape(array.shape[:2]) if ATTENTION.match(name) else array
    for name, array in weights.items()
  }
  compare(shapes, found)
  arrays = {
    path: jnp.asarray(_native(found[name]), jnp.float32)
    for path, name in names.items()
  }
  state = traverse_util.unflatten_dict(arrays)
  nnx.replace_by_pure_dict(abstract, state)
  return nnx.merge(graphdef, abstract)


def to_autoencoder(model: Autoencoder) -> dict[str, np.ndarray]:
  """The weights of an autoencoder under diffusers' names."""
  state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  flat = traverse_util.flatten_dict(state)
  return {
    _name(path): np.ascontiguousarray(_released(np.asarray(array)))
    for path, array in flat.items()
  }


def load_autoencoder(source: str | os.PathLike, **overrides) -> Autoencoder:
  """An autoencoder by name or path.

  Args:
    source: a name on the hub ('stabilityai/sd-vae-ft-ema'), a folder with
      `diffusion_pytorch_model.safetensors`, whose `config.json` is read, or a
      `.safetensors`, `.ckpt` or `.pth` file.
    overrides: see `from_autoencoder`.

  Raises:
    FileNotFoundError: there are no weights; tells the two ways to get them.
    UserError: tensors that are no autoencoder.
  """
  text, known = downloads.here(source), {}
  if (path := pathlib.Path(text, 'config.json')).is_file():
    read = json.loads(path.read_text())
    known = {k: read[k] for k in PUBLIC_NAMES if k in read}
  file = 'diffusion_pytorch_model.safetensors'
  path = find_weights(
    text,
    what='an autoencoder',
    by_name='stabilityai/sd-vae-ft-ema',
    by_path=f'{file} of that repository, and give the path of the file',
    file=file,
  )
  return from_autoencoder(read_weights(path), **(known | overrides))


def _standard(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same tensors by diffusers' names, without those of another network.

  Raises:
    UserError: they are no autoencoder.
  """
  if not is_autoencoder(weights):
    raise UserError(
      f'{len(weights)} tensors ({", ".join(list(weights)[:3])}, ...) are no '
      'autoencoder: expected decoder.conv_in.weight and so on, as diffusers '
      'or CompVis name them.'
    )
  renamed = {}
  for old in weights:
    new = old
    for pattern, by in RENAMED:
      new = re.sub(pattern, by, new)
    renamed[new] = old
  levels = Shapes(weights).count(
    r'(?:first_stage_model\.)?decoder\.up\.(\d+)\.'
  )

  def turned(match):  # CompVis counts the finest level first
    return f'decoder.up_blocks.{levels - 1 - int(match[1])}.'

  parts = ('encoder.', 'decoder.', 'quant_conv.', 'post_quant_conv.')
  return {
    re.sub(r'^decoder\.up\.(\d+)\.', turned, new): np.asarray(weights[old])
    for new, old in renamed.items()
    if new.startswith(parts)
  }


def _fields_of(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields that shapes tell."""
  shapes = Shapes(weights)
  levels = shapes.count(r'encoder\.down_blocks\.(\d+)\.')
  name = 'encoder.down_blocks.{}.resnets.0.conv1.weight'
  return dict(
    channels=shapes['encoder.conv_in.weight'][1],
    latent_channels=shapes['post_quant_conv.weight'][0],
    widths=tuple(shapes[name.format(i)][0] for i in range(levels)),
    blocks=shapes.count(r'encoder\.down_blocks\.0\.resnets\.(\d+)\.'),
  )


def _name(path: tuple[Any, ...]) -> str:
  """('encoder', 'conv_in', 'kernel') to 'encoder.conv_in.weight'."""
  last = 'bias' if path[-1] == 'bias' else 'weight'
  return '.'.join([*map(str, path[:-1]), last])


def _native(array: np.ndarray) -> np.ndarray:
  """[out, in, h, w] to [h, w, in, out], and [out, in] to [in, out]."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _released(array: np.ndarray) -> np.ndarray:
  """The inverse of `_native`."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
