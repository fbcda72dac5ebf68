"""Weights of DINOv2, in both its layouts, and how any encoder is found.

Letters of the patterns, beyond those of `pixeldit_jax.typing`: S query, key
and value, V the learned positions, R registers, h and w the sides of a patch.
"""

import hashlib
import math
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert import dinov3, efficientnet_lite
from pixeldit_jax.convert.files import find_weights, read_weights
from pixeldit_jax.convert.lazy import LazyTensors, flat, nested, specs_of
from pixeldit_jax.convert.rules import (
  Rule,
  linear_rules,
  norm_rules,
  to_native,
  to_released,
)
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.encoders.dinov3 import DINOv3Config
from pixeldit_jax.encoders.vision import PatchConfig, VisionConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import PyTree

HEAD_SIZE = 64  # in every released DINOv2
MASK_TOKENS = ('mask_token', 'embeddings.mask_token')  # only of pretraining


def _block(name: str, attention: str, scale: str) -> list[Rule]:
  """All of a block but query, key and value."""
  proj = f'{name}.{attention}'
  return [
    *norm_rules('blocks/norm1', f'{name}.norm1'),
    *linear_rules('blocks/proj', proj, 'D (N K) -> N K D', 'D -> D'),
    Rule('blocks/scale1', f'{name}.{scale.format(1)}', 'D -> D'),
    *norm_rules('blocks/norm2', f'{name}.norm2'),
    *linear_rules('blocks/up', f'{name}.mlp.fc1', 'F D -> D F', 'F -> F'),
    *linear_rules('blocks/down', f'{name}.mlp.fc2', 'D F -> F D', 'D -> D'),
    Rule('blocks/scale2', f'{name}.{scale.format(2)}', 'D -> D'),
  ]


PATCH = 'D C h w -> (h w) C D'

# Of the authors' `.pth`, and of what we keep.
ORIGINAL = [
  *linear_rules('patch_embed', 'patch_embed.proj', PATCH, 'D -> D'),
  Rule('class_token', 'cls_token', '1 1 D -> 1 D'),
  Rule('positions', 'pos_embed', '1 V D -> V D'),
  *_block('blocks.{i}', 'attn.proj', 'ls{}.gamma'),
  *linear_rules(
    'blocks/qkv',
    'blocks.{i}.attn.qkv',
    '(S N K) D -> D S N K',
    '(S N K) -> S N K',
  ),
  *norm_rules('norm', 'norm'),
]
ORIGINAL_REGISTERS = Rule('register_tokens', 'register_tokens', '1 R D -> R D')

_LAYER = 'encoder.layer.{i}'
_QKV = [f'{_LAYER}.attention.attention.{x}' for x in ('query', 'key', 'value')]
HUGGING_FACE = [
  *linear_rules(
    'patch_embed', 'embeddings.patch_embeddings.projection', PATCH, 'D -> D'
  ),
  Rule('class_token', 'embeddings.cls_token', '1 1 D -> 1 D'),
  Rule('positions', 'embeddings.position_embeddings', '1 V D -> V D'),
  *_block(_LAYER, 'attention.output.dense', 'layer_scale{}.lambda1'),
  Rule(
    'blocks/qkv/kernel',
    tuple(f'{x}.weight' for x in _QKV),
    'S (N K) D -> D S N K',
  ),
  Rule('blocks/qkv/bias', tuple(f'{x}.bias' for x in _QKV), 'S (N K) -> S N K'),
  *norm_rules('norm', 'layernorm'),
]
HUGGING_FACE_REGISTERS = Rule(
  'register_tokens', 'embeddings.register_tokens', '1 R D -> R D'
)


_WAYS = dict(
  what='an encoder',
  by_name='facebook/dinov2-base, or '
  'facebook/dinov3-vits16-pretrain-lvd1689m, whose licence has to be accepted '
  'there first',
  by_path='model.safetensors of that repository, or the .pth of the authors '
  '(dinov2_vitb14_pretrain.pth of github.com/facebookresearch/dinov2), and '
  'give the path of the file',
)


def load_vision(
  source: str | os.PathLike,
  keep: str | os.PathLike | None = None,
  **overrides,
) -> tuple[PatchConfig, PyTree]:
  """A frozen network's configuration and weights, in host memory.

  DINOv2 and DINOv3 are recognised by the names of their tensors. The weights
  have the form of `weights_of` of the network: place them by the sharding rules
  and `nnx.merge` them. Kernels are in `config.dtype`, as they are multiplied;
  the rest is float32.

  Args:
    source: a name on the hub ('facebook/dinov2-base',
      'facebook/dinov3-vits16-pretrain-lvd1689m', with hf:// before it or
      without), a folder with `model.safetensors`, or a `.safetensors` or
      `.pth` file (names of tensors of Hugging Face, the authors or, of DINOv3,
      timm); or efficientnet_lite0, whose weights a package carries.
    keep: a folder for the converted file; later calls read it, and need
      neither PyTorch nor a network.
    overrides: fields of the configuration that weights do not decide: `dtype`,
      `scan`, `heads` where a head is not 64 wide, and of DINOv2
      `position_offset`.

  Raises:
    FileNotFoundError: there are no weights; it names two ways to get them.
    UserError: tensors that are neither network in this form.
  """
  if source == efficientnet_lite.NAME:
    return efficientnet_lite.load_patches()
  kept = None
  if keep is not None:
    kept = pathlib.Path(keep) / f'{_identity(source)}.safetensors'
  if kept is not None and kept.is_file():
    return from_vision(read_weights(kept), **overrides)
  weights = read_weights(find_weights(os.fspath(source), **_WAYS))
  if kept is not None:
    write_safetensors(kept, _standard(weights, **overrides))
  return from_vision(weights, **overrides)


def from_vision(
  weights: Mapping[str, np.ndarray], **overrides
) -> tuple[VisionConfig | DINOv3Config, PyTree]:
  """`load_vision` for tensors at hand, under any layout's names."""
  if dinov3.layout_of(weights):
    if offset := overrides.pop('position_offset', 0.0):
      raise UserError(
        f'position_offset={offset} with a DINOv3, whose positions are not '
        'learnt: it is of a DINOv2; set it to 0.'
      )
    return dinov3.from_dinov3(weights, **overrides)
  return from_dinov2(weights, **overrides)


def load_dinov2(
  source: str | os.PathLike,
  keep: str | os.PathLike | None = None,
  **overrides,
) -> tuple[VisionConfig, PyTree]:
  """`load_vision` of a network that has to be a DINOv2.

  Raises:
    FileNotFoundError: see `load_vision`.
    UserError: tensors that are no DINOv2.
  """
  config, weights = load_vision(source, keep, **overrides)
  if not isinstance(config, VisionConfig):
    raise UserError(f'{source} is a DINOv3: expected a DINOv2.')
  return config, weights


def from_dinov2(
  weights: Mapping[str, np.ndarray], **overrides
) -> tuple[VisionConfig, PyTree]:
  """`load_dinov2` for tensors at hand, under either layout's names."""
  config = infer_config(weights, **overrides)

  def cast(path, array):
    kernel = path.endswith('/kernel')
    return array.astype(config.dtype if kernel else np.float32)

  native = _to_native(weights, config)
  return config, nested({k: cast(k, v) for k, v in native.items()})


def write_dinov2(
  path: str | os.PathLike, config: VisionConfig, weights: PyTree
) -> None:
  """Writes a teacher of our own as safetensors, for `load_dinov2`."""
  depths = {'blocks': config.depth}
  released = to_released(
    _authors(config), flat(weights), _sizes(config), depths
  )
  write_safetensors(path, released)


def infer_config(
  weights: Mapping[str, np.ndarray], **overrides
) -> VisionConfig:
  """The configuration that tensors under either layout's names belong to.

  Raises:
    UserError: they are no DINOv2.
  """
  shapes = {name: spec.shape for name, spec in specs_of(weights).items()}
  by_path = {rule.path: str(rule.names) for rule in _rules(weights)}
  first = by_path['blocks/norm1/weight']
  pattern = re.escape(first).replace(r'\{i\}', r'(\d+)')
  blocks = (re.fullmatch(pattern, name) for name in shapes)
  try:
    width, _, _, patch = shapes[by_path['patch_embed/kernel']]
    _, positions, _ = shapes[by_path['positions']]
    hidden, _ = shapes[by_path['blocks/up/kernel'].format(i=0)]
    registers = 0
    if 'register_tokens' in by_path:
      registers = shapes[by_path['register_tokens']][1]
  except (KeyError, ValueError) as error:
    raise UserError(
      f'the tensors are no DINOv2 of size S, B or L ({error} is missing, or '
      f'has another number of axes): {sorted(shapes)[:8]} ...'
    ) from error
  found = dict(
    width=width,
    depth=1 + max((int(m[1]) for m in blocks if m), default=-1),
    heads=max(1, width // HEAD_SIZE),
    mlp_ratio=hidden // width,
    patch_size=patch,
    grid=math.isqrt(positions - 1),
    registers=registers,
  )
  return VisionConfig(**(found | overrides))


def _rules(weights: Mapping[str, np.ndarray]) -> list[Rule]:
  """Those of the layout whose names the tensors have."""
  for rules, registers in (
    (ORIGINAL, ORIGINAL_REGISTERS),
    (HUGGING_FACE, HUGGING_FACE_REGISTERS),
  ):
    if any(rule.names in weights for rule in rules if rule.path == 'positions'):
      return rules + [registers] * (registers.names in weights)
  raise UserError(
    'the tensors are no DINOv2: neither pos_embed nor '
    'embeddings.position_embeddings is among '
    f'{sorted(weights)[:8]} ...'
  )


def _to_native(
  weights: Mapping[str, np.ndarray], config: VisionConfig
) -> LazyTensors:
  if isinstance(weights, LazyTensors):
    used = {name: name for name in weights if name not in MASK_TOKENS}
    weights = weights.renamed(used)
  else:
    weights = {k: v for k, v in weights.items() if k not in MASK_TOKENS}
  depths = {'blocks': config.depth}
  return to_native(_rules(weights), weights, _sizes(config), depths)


def _authors(config: VisionConfig) -> list[Rule]:
  """The authors' names."""
  return ORIGINAL + [ORIGINAL_REGISTERS] * (config.registers > 0)


def _standard(weights: Mapping[str, np.ndarray], **overrides) -> LazyTensors:
  """The same tensors under the names that are kept.

  The authors' of DINOv2, timm's of DINOv3.
  """
  if dinov3.layout_of(weights):
    exact = overrides | dict(dtype='float32')
    exact.pop('position_offset', None)
    return dinov3.to_dinov3(*dinov3.from_dinov3(weights, **exact))
  config = infer_config(weights, **overrides)
  native = _to_native(weights, config)
  depths = {'blocks': config.depth}
  return to_released(_authors(config), native, _sizes(config), depths)


def _sizes(config: VisionConfig) -> dict[str, int]:
  """The length of each letter."""
  return dict(
    C=3,
    D=config.width,
    F=config.mlp_ratio * config.width,
    K=config.width // config.heads,
    N=config.heads,
    R=config.registers,
    S=3,
    V=1 + config.grid**2,
    h=config.patch_size,
    w=config.patch_size,
  )


def _identity(source: str | os.PathLike) -> str:
  """What a source is kept as: a file that changes becomes another."""
  name = re.sub(r'[^\w.-]+', '--', os.fspath(source)).strip('-')
  if not os.path.exists(source):
    return name
  path = pathlib.Path(source).resolve()
  weights = path / 'model.safetensors' if path.is_dir() else path
  stat = weights.stat() if weights.exists() else path.stat()
  identity = f'{path} {stat.st_size} {stat.st_mtime_ns}'.encode()
  return f'{path.name}-{hashlib.sha256(identity).hexdigest()[:16]}'
