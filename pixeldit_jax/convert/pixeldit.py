"""Weights of the authors' releases, class-conditional and text, in and out.

The text-to-image release predicts noise - image, so its last layer changes
sign here; that it counts time as 1000 (1 - t) is `ModelConfig.time`.

Letters of the patterns, beyond those of `pixeldit_jax.typing`: J pairs of
channels in a head and i the two of a pair (theirs are neighbours, ours are
halves; see `model.rope`), X the frequencies of time, Y rows of the class
table, G the two inputs of SwiGLU, S query, key and value, O = 4E, V the width
of the text embeddings. A, n and j are D, N and J of the pixel path's attention.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.convert.lazy import LazyTensors, flat, nested, specs_of
from pixeldit_jax.convert.rules import Rule, to_ours, to_theirs
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import TIME_FEATURES
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model, weights_of
from pixeldit_jax.typing import PyTree


def _linear(path: str, name: str, pattern: str) -> list[Rule]:
  """Kernel and bias of a layer whose kernel has this pattern."""
  theirs, ours = pattern.split('->')
  output = re.findall(r'^\(\w+\)|^\w', theirs)[0]
  letters = output.strip('()')
  kept = ''.join(a for a in ours if a in letters)
  return [
    Rule(f'{path}/kernel', f'{name}.weight', pattern),
    Rule(f'{path}/bias', f'{name}.bias', f'{output}->{kept}'),
  ]


def _attention(
  path: str, name: str, letters: str, stream: str = ''
) -> list[Rule]:
  """Letters of width, heads and pairs; stream '_x' or '_y' of MM-DiT."""
  D, N, J = list(letters)
  head = f'({J}i)->(i{J})'
  proj = f'{name}.proj{stream}'
  return [
    Rule(
      f'{path}/qkv/kernel',
      f'{name}.qkv{stream}.weight',
      f'(S{N}{J}i){D}->{D}S({N}i{J})',
    ),
    Rule(f'{path}/q_norm/weight', f'{name}.q_norm{stream}.weight', head),
    Rule(f'{path}/k_norm/weight', f'{name}.k_norm{stream}.weight', head),
    Rule(
      f'{path}/proj/kernel', f'{proj}.weight', f'{D}({N}{J}i)->({N}i{J}){D}'
    ),
    Rule(f'{path}/proj/bias', f'{proj}.bias', f'{D}->{D}'),
  ]


def _patch_block(
  path: str, name: str, norm: str, stream: str, adaln: str
) -> list[Rule]:
  mlp = f'{name}.mlp{stream}'
  return [
    Rule(f'{path}/norm1/weight', f'{name}.{norm}1.weight', 'D->D'),
    *_attention(f'{path}/attn', f'{name}.attn', 'DNJ', stream),
    Rule(f'{path}/norm2/weight', f'{name}.{norm}2.weight', 'D->D'),
    Rule(
      f'{path}/mlp/up/kernel',
      (f'{mlp}.w1.weight', f'{mlp}.w3.weight'),
      'GFD->DGF',
    ),
    Rule(f'{path}/mlp/down/kernel', f'{mlp}.w2.weight', 'DF->FD'),
    # 'd' is the width as an input, of the same length as 'D'.
    *_linear(f'{path}/adaln', f'{name}.{adaln}.0', '(MD)d->dMD'),
  ]


def _pixel_block(path: str, name: str) -> list[Rule]:
  return [
    Rule(f'{path}/norm1/weight', f'{name}.norm1.weight', 'E->E'),
    *_linear(f'{path}/attn/compact', f'{name}.compress_to_attn', 'A(PE)->PEA'),
    *_attention(f'{path}/attn/attn', f'{name}.attn', 'Anj'),
    *_linear(f'{path}/attn/expand', f'{name}.expand_from_attn', '(PE)A->APE'),
    Rule(f'{path}/norm2/weight', f'{name}.norm2.weight', 'E->E'),
    *_linear(f'{path}/mlp/up', f'{name}.mlp.fc1', 'OE->EO'),
    *_linear(f'{path}/mlp/down', f'{name}.mlp.fc2', 'EO->OE'),
    *_linear(f'{path}/adaln', f'{name}.adaLN_modulation.0', '(PmE)D->DmPE'),
  ]


_BLOCK = 'patch_blocks.{i}'
_CLASS_RULES = [
  Rule('class_embed/table', 'y_embedder.embedding_table.weight', 'YD->YD'),
  *_patch_block('patch_blocks', _BLOCK, 'norm', '', 'adaLN_modulation'),
]
_TEXT_RULES = [
  *_linear('text_embed/proj', 'y_embedder.proj', 'DV->VD'),
  Rule('text_embed/norm/weight', 'y_embedder.norm.weight', 'D->D'),
  Rule('text_embed/positions', 'y_pos_embedding', 'UTD->(UT)D'),
  *_patch_block(
    'patch_blocks/image', _BLOCK, 'norm_x', '_x', 'adaLN_modulation_img'
  ),
  *_patch_block(
    'patch_blocks/text', _BLOCK, 'norm_y', '_y', 'adaLN_modulation_txt'
  ),
]
_SHARED_RULES = [
  *_linear('time_embed/up', 't_embedder.mlp.0', 'DX->XD'),
  *_linear('time_embed/down', 't_embedder.mlp.2', 'Dd->dD'),
  *_linear('patch_embed/proj', 's_embedder.proj', 'D(CP)->PCD'),
  *_linear('pixel_embed/proj', 'pixel_embedder.proj', 'EC->CE'),
  *_pixel_block('pixel_blocks', 'pixel_blocks.{i}'),
  Rule('output/norm/weight', 'final_layer.norm.weight', 'E->E'),
  *_linear('output/proj', 'final_layer.linear', 'CE->EC'),
]


def _rules(config: ModelConfig) -> list[Rule]:
  return _SHARED_RULES + (_TEXT_RULES if config.text_width else _CLASS_RULES)


def _sizes(config: ModelConfig) -> dict[str, int]:
  """The length of each letter; m counts the pixel path's modulations."""
  attention_width, attention_heads = config.pixel_attention_size
  return dict(
    A=attention_width,
    C=config.in_channels,
    D=config.width,
    d=config.width,
    E=config.pixel_width,
    F=config.mlp_width,
    G=2,
    J=config.head_size // 2,
    M=6,
    N=config.heads,
    O=4 * config.pixel_width,
    P=config.pixels,
    S=3,
    T=config.text_tokens,
    U=1,
    V=config.text_width,
    X=TIME_FEATURES,
    Y=config.num_classes + 1,
    i=2,
    j=attention_width // attention_heads // 2,
    n=attention_heads,
    m=4 if config.modulation == 'post' else 6,
  )


def _depths(config: ModelConfig) -> dict[str, int]:
  return dict(patch_blocks=config.patch_depth, pixel_blocks=config.pixel_depth)


def infer_config(weights: Mapping[str, np.ndarray], **overrides) -> ModelConfig:
  """The configuration that a mapping of released weights belongs to.

  Args:
    weights: names of the release, without prefixes, to arrays.
    overrides: fields of `ModelConfig` that weights do not tell, as `dtype`.

  Raises:
    UserError: a tensor that tells a size is not there.
  """
  return ModelConfig(**(fields_of(weights) | overrides))


def fields_of(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The fields of `ModelConfig` that weights tell; see `infer_config`."""
  specs = specs_of(weights)

  def shape(name):
    if name not in specs:
      raise UserError(
        f'{name} is not among the {len(specs)} weights: expected the inner '
        "names of the release, as 'patch_blocks.0.attn.qkv.weight', without "
        "a prefix such as 'denoiser.'."
      )
    return specs[name].shape

  def depth(prefix):
    found = (re.match(rf'{prefix}\.(\d+)\.', name) for name in specs)
    return max((int(m[1]) + 1 for m in found if m), default=0)

  pixel_width, channels = shape('pixel_embedder.proj.weight')
  width, patch_inputs = shape('s_embedder.proj.weight')
  pixels = patch_inputs // channels
  if 'y_embedder.proj.weight' in specs:
    condition = dict(
      num_classes=0,
      text_width=shape('y_embedder.proj.weight')[1],
      text_tokens=shape('y_pos_embedding')[1],
      time='noise',
      zero_modulation=False,
    )
    head_size = shape('patch_blocks.0.attn.q_norm_x.weight')[0]
  else:
    classes = shape('y_embedder.embedding_table.weight')[0] - 1
    condition = dict(num_classes=classes)
    head_size = shape('patch_blocks.0.attn.q_norm.weight')[0]
  attention_width = shape('pixel_blocks.0.compress_to_attn.weight')[0]
  modulation = shape('pixel_blocks.0.adaLN_modulation.0.weight')[0]
  return dict(
    condition,
    in_channels=channels,
    patch_size=round(pixels**0.5),
    width=width,
    heads=width // head_size,
    patch_depth=depth('patch_blocks'),
    pixel_width=pixel_width,
    pixel_depth=depth('pixel_blocks'),
    pixel_attention_width=attention_width,
    pixel_heads=attention_width
    // shape('pixel_blocks.0.attn.q_norm.weight')[0],
    modulation='post' if modulation == 4 * pixels * pixel_width else 'pre',
  )


def from_official(weights: Mapping[str, np.ndarray], **overrides) -> PixelDiT:
  """The network that holds released weights; call it as `model(x, t, y)`.

  Args:
    weights: names of the release, as 'patch_blocks.0.attn.qkv.weight', to
      NumPy arrays. The modulation variant is seen from the shapes.
    overrides: fields of `ModelConfig`, as `dtype='bfloat16'`.

  Raises:
    UserError: names or shapes that do not fit, all of them listed.
  """
  config = infer_config(weights, **overrides)
  ours = ours_of(weights, config)
  graphdef = nnx.graphdef(abstract_model(config))
  arrays = {path: jnp.asarray(array) for path, array in ours.items()}
  return nnx.merge(graphdef, nested(arrays))


def to_official(model: PixelDiT) -> dict[str, np.ndarray]:
  """The weights of a network under the names of the release."""
  return rename_to_official(weights_of(model), model.config)


def rename_to_official(
  tree: PyTree, config: ModelConfig
) -> dict[str, np.ndarray]:
  """Any tree in the form of the weights (gradients, EMA) to their names.

  Raises:
    UserError: a configuration that the release cannot express.
  """
  return dict(theirs_of(flat(tree), config))


def ours_of(
  weights: Mapping[str, np.ndarray], config: ModelConfig
) -> LazyTensors:
  """Released weights as ours, float32, by path ('patch_blocks/adaln/bias').

  Raises:
    UserError: names or shapes that do not fit, all of them listed.
  """
  ours = to_ours(_rules(config), weights, _sizes(config), _depths(config))
  return (_turned(ours) if config.text_width else ours).cast('float32')


def theirs_of(ours: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The inverse of `ours_of`, in the dtypes of `ours`.

  Raises:
    UserError: a configuration that the release cannot express.
  """
  standard = ModelConfig()
  for name in ('pixel_attention', 'pixel_adaln', 'norm', 'positions'):
    if getattr(config, name) != getattr(standard, name):
      raise UserError(
        f'model.{name}={getattr(config, name)!r}: the release has no name '
        'for the weights of this variant.'
      )
  time = 'noise' if config.text_width else 'unit'
  if config.time != time:
    raise UserError(f'model.time={config.time!r}: the release has {time!r}.')
  if not config.pixel_depth:
    raise UserError('model.pixel_depth=0: the release has no single level.')
  if config.text_width:
    ours = _turned(ours)
  return to_theirs(_rules(config), ours, _sizes(config), _depths(config))


def _turned(ours: LazyTensors) -> LazyTensors:
  """The weights of the opposite velocity: the last layer's sign changes."""
  return ours.mapped(
    lambda path, a: -a if path.startswith('output/proj/') else a
  )
