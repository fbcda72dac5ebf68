"""Weights of the authors' class-conditional release, in and out.

Letters of the patterns, beyond those of `pixeldit_jax.typing`: J pairs of
channels in a head and i the two of a pair (theirs are neighbours, ours are
halves; see `model.rope`), X the frequencies of time, Y rows of the class
table, G the two inputs of SwiGLU, S query, key and value, O = 4E.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.convert.rules import Rule, to_ours, to_theirs
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import TIME_FEATURES
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model, weights_of
from pixeldit_jax.typing import PyTree


def _linear(path: str, name: str, pattern: str) -> list[Rule]:
  """Kernel and bias of a layer whose kernel has this pattern."""
  theirs, ours = pattern.split('->')
  output = re.match(r'\(\w+\)|\w', theirs)[0]
  letters = output.strip('()')
  kept = ''.join(a for a in ours if a in letters)
  return [
    Rule(f'{path}/kernel', f'{name}.weight', pattern),
    Rule(f'{path}/bias', f'{name}.bias', f'{output}->{kept}'),
  ]


def _attention(path: str, name: str) -> list[Rule]:
  return [
    Rule(f'{path}/qkv/kernel', f'{name}.qkv.weight', '(SNJi)D->DSN(iJ)'),
    Rule(f'{path}/q_norm/weight', f'{name}.q_norm.weight', '(Ji)->(iJ)'),
    Rule(f'{path}/k_norm/weight', f'{name}.k_norm.weight', '(Ji)->(iJ)'),
    Rule(f'{path}/proj/kernel', f'{name}.proj.weight', 'D(NJi)->N(iJ)D'),
    Rule(f'{path}/proj/bias', f'{name}.proj.bias', 'D->D'),
  ]


def _patch_block(path: str, name: str) -> list[Rule]:
  mlp = f'{name}.mlp'
  return [
    Rule(f'{path}/norm1/weight', f'{name}.norm1.weight', 'D->D'),
    *_attention(f'{path}/attn', f'{name}.attn'),
    Rule(f'{path}/norm2/weight', f'{name}.norm2.weight', 'D->D'),
    Rule(
      f'{path}/mlp/up/kernel',
      (f'{mlp}.w1.weight', f'{mlp}.w3.weight'),
      'GFD->DGF',
    ),
    Rule(f'{path}/mlp/down/kernel', f'{mlp}.w2.weight', 'DF->FD'),
    # 'd' is the width as an input, of the same length as 'D'.
    *_linear(f'{path}/adaln', f'{name}.adaLN_modulation.0', '(MD)d->dMD'),
  ]


def _pixel_block(path: str, name: str) -> list[Rule]:
  return [
    Rule(f'{path}/norm1/weight', f'{name}.norm1.weight', 'E->E'),
    *_linear(f'{path}/attn/compact', f'{name}.compress_to_attn', 'D(PE)->PED'),
    *_attention(f'{path}/attn/attn', f'{name}.attn'),
    *_linear(f'{path}/attn/expand', f'{name}.expand_from_attn', '(PE)D->DPE'),
    Rule(f'{path}/norm2/weight', f'{name}.norm2.weight', 'E->E'),
    *_linear(f'{path}/mlp/up', f'{name}.mlp.fc1', 'OE->EO'),
    *_linear(f'{path}/mlp/down', f'{name}.mlp.fc2', 'EO->OE'),
    *_linear(f'{path}/adaln', f'{name}.adaLN_modulation.0', '(PmE)D->DmPE'),
  ]


RULES = [
  *_linear('time_embed/up', 't_embedder.mlp.0', 'DX->XD'),
  *_linear('time_embed/down', 't_embedder.mlp.2', 'Dd->dD'),
  Rule('class_embed/table', 'y_embedder.embedding_table.weight', 'YD->YD'),
  *_linear('patch_embed/proj', 's_embedder.proj', 'D(CP)->PCD'),
  *_patch_block('patch_blocks', 'patch_blocks.{i}'),
  *_linear('pixel_embed/proj', 'pixel_embedder.proj', 'EC->CE'),
  *_pixel_block('pixel_blocks', 'pixel_blocks.{i}'),
  Rule('output/norm/weight', 'final_layer.norm.weight', 'E->E'),
  *_linear('output/proj', 'final_layer.linear', 'CE->EC'),
]


def _sizes(config: ModelConfig) -> dict[str, int]:
  """The length of each letter; m counts the pixel path's modulations."""
  return dict(
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
    X=TIME_FEATURES,
    Y=config.num_classes + 1,
    i=2,
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
    ValueError: a tensor that tells a size is not there.
  """

  def shape(name):
    if name not in weights:
      raise ValueError(
        f'{name} is not among the {len(weights)} weights: expected the inner '
        "names of the release, as 'patch_blocks.0.attn.qkv.weight', without "
        "a prefix such as 'denoiser.'."
      )
    return weights[name].shape

  def depth(prefix):
    found = (re.match(rf'{prefix}\.(\d+)\.', name) for name in weights)
    return max((int(m[1]) + 1 for m in found if m), default=0)

  pixel_width, channels = shape('pixel_embedder.proj.weight')
  width, patch_inputs = shape('s_embedder.proj.weight')
  pixels = patch_inputs // channels
  modulation = shape('pixel_blocks.0.adaLN_modulation.0.weight')[0]
  found = dict(
    num_classes=shape('y_embedder.embedding_table.weight')[0] - 1,
    in_channels=channels,
    patch_size=round(pixels**0.5),
    width=width,
    heads=width // shape('patch_blocks.0.attn.q_norm.weight')[0],
    patch_depth=depth('patch_blocks'),
    pixel_width=pixel_width,
    pixel_depth=depth('pixel_blocks'),
    modulation='post' if modulation == 4 * pixels * pixel_width else 'pre',
  )
  return ModelConfig(**(found | overrides))


def from_official(weights: Mapping[str, np.ndarray], **overrides) -> PixelDiT:
  """The network that holds released weights; call it as `model(x, t, y)`.

  Args:
    weights: names of the release, as 'patch_blocks.0.attn.qkv.weight', to
      NumPy arrays. The modulation variant is seen from the shapes.
    overrides: fields of `ModelConfig`, as `dtype='bfloat16'`.

  Raises:
    ValueError: names or shapes that do not fit, all of them listed.
  """
  config = infer_config(weights, **overrides)
  ours = to_ours(RULES, weights, _sizes(config), _depths(config))
  graphdef = nnx.graphdef(abstract_model(config))
  arrays = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), ours)
  return nnx.merge(graphdef, arrays)


def to_official(model: PixelDiT) -> dict[str, np.ndarray]:
  """The weights of a network under the names of the release."""
  return rename_to_official(weights_of(model), model.config)


def rename_to_official(
  tree: PyTree, config: ModelConfig
) -> dict[str, np.ndarray]:
  """Any tree in the form of the weights (gradients, EMA) to their names.

  Raises:
    ValueError: a configuration that the release cannot express.
  """
  standard = ModelConfig()
  for name in ('pixel_attention', 'pixel_adaln', 'norm', 'positions'):
    if getattr(config, name) != getattr(standard, name):
      raise ValueError(
        f'model.{name}={getattr(config, name)!r}: the release has no name '
        'for the weights of this variant.'
      )
  if not config.pixel_depth:
    raise ValueError('model.pixel_depth=0: the release has no single level.')
  return to_theirs(RULES, tree, _sizes(config), _depths(config))
