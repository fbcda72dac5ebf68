"""Weights of DINOv3 under the names of timm, the Hugging Face hub, the authors.

Letters of the patterns, beyond those of `pixeldit_jax.typing`: S query, key
and value, G query and value, or the two inputs of SwiGLU, R registers, h and w
the sides of a patch.
"""

import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert.lazy import (
  LazyTensors,
  Spec,
  flat,
  nested,
  specs_of,
)
from pixeldit_jax.convert.rules import (
  Rule,
  linear_rules,
  norm_rules,
  to_native,
  to_released,
)
from pixeldit_jax.encoders.dinov3 import DINOv3Config
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import PyTree

PATCH = 'D C h w -> (h w) C D'
# Tensors that only DINOv3 has, one for each layout of names.
TELLS = {
  'timm': 'blocks.0.gamma_1',
  'hugging_face': 'layer.0.attention.q_proj.weight',
  'authors': 'storage_tokens',
}
LAYOUTS = tuple(TELLS)
# Of pretraining, computed, or of the authors' masked biases.
UNUSED = re.compile(
  r'(embeddings\.)?mask_token|rope_embed(dings)?\..*|.*\.qkv\.bias_mask|'
  r'(local_)?cls_norm\..*'
)
GATED = {
  'timm': ('fc1_g', 'fc1_x', 'fc2'),
  'hugging_face': ('gate_proj', 'up_proj', 'down_proj'),
  'authors': ('w1', 'w2', 'w3'),
}
PLAIN = {
  'timm': ('fc1', 'fc2'),
  'hugging_face': ('up_proj', 'down_proj'),
  'authors': ('fc1', 'fc2'),
}


def layout_of(weights: Mapping[str, np.ndarray]) -> str | None:
  """The layout whose names the tensors have; None if they are no DINOv3."""
  for layout, name in TELLS.items():
    if name in weights or f'model.{name}' in weights:
      return layout
  return None


def _mlp(config: DINOv3Config, layout: str, block: str) -> list[Rule]:
  names = (GATED if config.gated else PLAIN)[layout]
  *up, down = [f'{block}.mlp.{name}' for name in names]
  rules = linear_rules('blocks/down', down, 'D F -> F D', 'D -> D')
  if not config.gated:
    return rules + linear_rules('blocks/up', up[0], 'F D -> D F', 'F -> F')
  weights, biases = (
    tuple(f'{name}.{kind}' for name in up) for kind in ('weight', 'bias')
  )
  return [
    *rules,
    Rule('blocks/up/kernel', weights, 'G F D -> D G F'),
    Rule('blocks/up/bias', biases, 'G F -> G F'),
  ]


def _rules(config: DINOv3Config, layout: str) -> list[Rule]:
  """Every weight once. The authors' biases are split beforehand (`_split`)."""
  hub = layout == 'hugging_face'
  block = 'layer.{i}' if hub else 'blocks.{i}'
  attention = f'{block}.attention' if hub else f'{block}.attn'
  patch, before = 'patch_embed.proj', ''
  scale, register = 'gamma_{}', 'reg_token'
  biases = (f'{attention}.q_bias', f'{attention}.v_bias')
  qkv = Rule(
    'blocks/qkv/kernel', f'{attention}.qkv.weight', '(S N K) D -> D S N K'
  )
  proj = f'{attention}.proj'
  if hub:
    patch, before = 'embeddings.patch_embeddings', 'embeddings.'
    scale, register = 'layer_scale{}.lambda1', 'register_tokens'
    biases = (f'{attention}.q_proj.bias', f'{attention}.v_proj.bias')
    parts = tuple(f'{attention}.{x}_proj.weight' for x in 'qkv')
    qkv = Rule('blocks/qkv/kernel', parts, 'S (N K) D -> D S N K')
    proj = f'{attention}.o_proj'
  elif layout == 'authors':
    scale, register = 'ls{}.gamma', 'storage_tokens'
  rules = [
    *linear_rules('patch_embed', patch, PATCH, 'D -> D'),
    Rule('class_token', f'{before}cls_token', '1 1 D -> 1 D'),
    *norm_rules('blocks/norm1', f'{block}.norm1'),
    qkv,
    *linear_rules('blocks/proj', proj, 'D (N K) -> N K D', 'D -> D'),
    Rule('blocks/scale1', f'{block}.{scale.format(1)}', 'D -> D'),
    *norm_rules('blocks/norm2', f'{block}.norm2'),
    *_mlp(config, layout, block),
    Rule('blocks/scale2', f'{block}.{scale.format(2)}', 'D -> D'),
    *norm_rules('norm', 'norm'),
  ]
  if config.registers:
    rules.append(Rule('register_tokens', f'{before}{register}', '1 R D -> R D'))
  if config.qv_bias:
    rules.append(Rule('blocks/qv_bias', biases, 'G (N K) -> G N K'))
  return rules


def _sizes(config: DINOv3Config) -> dict[str, int]:
  """The length of each letter."""
  return dict(
    C=3,
    D=config.width,
    F=config.mlp_width,
    G=2,
    K=config.head_size,
    N=config.heads,
    R=config.registers,
    S=3,
    h=config.patch_size,
    w=config.patch_size,
  )


def _plain(weights: Mapping[str, np.ndarray]) -> LazyTensors:
  """The tensors that are used, under the names of their layout.

  Newer files of the hub begin some names with 'model.'. The authors' bias of
  qkv becomes those of q and v: that of k is masked, which is zero.
  """
  specs = specs_of(weights)
  names: dict[str, tuple[str, int | None]] = {
    re.sub(r'^model\.(?=layer\.)', '', name): (name, None)
    for name in specs
    if not UNUSED.fullmatch(name)
  }
  for name in [n for n in names if n.endswith('.attn.qkv.bias')]:
    stem = name.removesuffix('qkv.bias')
    joint, _ = names.pop(name)
    names |= {f'{stem}q_bias': (joint, 0), f'{stem}v_bias': (joint, 2)}

  def spec(name, part):
    shape, dtype = specs[name]
    return Spec(shape if part is None else (shape[0] // 3,), dtype)

  def read(new):
    name, part = names[new]
    array = np.asarray(weights[name])
    return array if part is None else np.split(array, 3)[part]

  found = {new: spec(*source) for new, source in names.items()}
  return LazyTensors(found, read)


def infer_config(
  weights: Mapping[str, np.ndarray], **overrides
) -> DINOv3Config:
  """The configuration that tensors under any layout's names belong to.

  Raises:
    UserError: they are no DINOv3.
  """
  layout = layout_of(weights)
  shapes = {name: spec.shape for name, spec in specs_of(weights).items()}
  gated, up = False, ''
  if layout:
    shapes = {k: s.shape for k, s in specs_of(_plain(weights)).items()}
    block = 'layer.0' if layout == 'hugging_face' else 'blocks.0'
    gated = f'{block}.mlp.{GATED[layout][0]}.weight' in shapes
    up = f'{block}.mlp.{(GATED if gated else PLAIN)[layout][0]}.weight'
  patch = [n for n in shapes if re.fullmatch(r'.*patch_embed.*weight', n)]
  if not layout or not patch or up not in shapes:
    raise UserError(
      'the tensors are no DINOv3 vision transformer under the names of timm, '
      f'the hub or the authors: {sorted(shapes)[:8]} ...'
    )
  width, _, _, side = shapes[patch[0]]
  blocks = [re.match(r'(?:layer|blocks)\.(\d+)\.', name) for name in shapes]
  registers = [
    n for n in shapes if re.search(r'reg_token|(register|storage)_tokens', n)
  ]
  biases = ('attn.q_bias', 'attention.q_proj.bias')
  found = dict(
    width=width,
    depth=1 + max(int(m[1]) for m in blocks if m),
    heads=max(1, width // (128 if width == 4096 else 64)),
    mlp_width=shapes[up][0],
    gated=gated,
    patch_size=side,
    registers=shapes[registers[0]][1] if registers else 0,
    qv_bias=any(name.endswith(biases) for name in shapes),
  )
  return DINOv3Config(**(found | overrides))


def from_dinov3(
  weights: Mapping[str, np.ndarray], **overrides
) -> tuple[DINOv3Config, PyTree]:
  """Configuration and weights of tensors under any layout's names.

  Args:
    weights: names of timm, the hub or the authors, to arrays.
    overrides: fields of `DINOv3Config` that tensors do not decide: `dtype`,
      `scan`, and `heads` where a head is not 64 wide.

  Raises:
    UserError: tensors that are no DINOv3, or do not fit it.
  """
  config, layout = infer_config(weights, **overrides), layout_of(weights)
  assert layout is not None  # or infer_config would have refused
  rules = _rules(config, layout)
  depths = {'blocks': config.depth}
  native = to_native(rules, _plain(weights), _sizes(config), depths)

  def cast(path, array):
    kernel = path.endswith('/kernel')
    return array.astype(config.dtype if kernel else np.float32)

  return config, nested({k: cast(k, v) for k, v in native.items()})


def to_dinov3(
  config: DINOv3Config, weights: PyTree, layout: str = 'timm'
) -> LazyTensors:
  """The inverse of `from_dinov3`, under the names of timm or of the hub.

  Raises:
    UserError: another layout.
  """
  if layout not in ('timm', 'hugging_face'):
    raise UserError(f'layout={layout!r}: timm or hugging_face.')
  depths = {'blocks': config.depth}
  rules = _rules(config, layout)
  return to_released(rules, flat(weights), _sizes(config), depths)
