"""The layouts of DINOv3's weights, in and out.

That they are converted rightly is shown in tests/encoders/test_dinov3.py.
"""

import math
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.dinov3 import (
  from_dinov3,
  infer_config,
  layout_of,
  to_dinov3,
)
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import load_dinov2, load_vision
from pixeldit_jax.encoders.dinov3 import DINOv3Config, sized
from pixeldit_jax.encoders.vision import abstract_network
from pixeldit_jax.model.pixeldit import weights_of

D = 64  # one head


def timm(gated=False, biases=True, seed=0):
  """Random tensors under timm's names."""
  shapes = {
    'cls_token': (1, 1, D),
    'reg_token': (1, 4, D),
    'patch_embed.proj.weight': (D, 3, 16, 16),
    'patch_embed.proj.bias': (D,),
    'norm.weight': (D,),
    'norm.bias': (D,),
  }
  layers = {'fc1_g': (96, D), 'fc1_x': (96, D)} if gated else {'fc1': (96, D)}
  layers |= {'fc2': (D, 96)}
  for i in range(2):
    block = f'blocks.{i}'
    for name, shape in layers.items():
      shapes[f'{block}.mlp.{name}.weight'] = shape
      shapes[f'{block}.mlp.{name}.bias'] = shape[:1]
    for name in ('norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias'):
      shapes[f'{block}.{name}'] = (D,)
    for name in ('gamma_1', 'gamma_2', 'attn.proj.bias'):
      shapes[f'{block}.{name}'] = (D,)
    shapes[f'{block}.attn.qkv.weight'] = (3 * D, D)
    shapes[f'{block}.attn.proj.weight'] = (D, D)
    if biases:
      shapes[f'{block}.attn.q_bias'] = shapes[f'{block}.attn.v_bias'] = (D,)
  rng = np.random.default_rng(seed)
  return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def authors(tensors):
  """The same tensors under the authors' names, with what they have more."""
  renamed = {}
  for name, array in tensors.items():
    for ours, theirs in (
      ('reg_token', 'storage_tokens'),
      ('gamma_1', 'ls1.gamma'),
      ('gamma_2', 'ls2.gamma'),
      ('fc1_g', 'w1'),
      ('fc1_x', 'w2'),
    ):
      name = name.replace(ours, theirs)
    if 'blocks.0.mlp.fc1_g.weight' in tensors:
      name = name.replace('fc2', 'w3')
    renamed[name] = array
  for i in range(2):
    attention = f'blocks.{i}.attn'
    q = renamed.pop(f'{attention}.q_bias', None)
    v = renamed.pop(f'{attention}.v_bias', None)
    if q is not None:
      # What stands for the keys is masked: it may be anything.
      masked = np.full(D, np.nan, np.float32)
      renamed[f'{attention}.qkv.bias'] = np.concatenate([q, masked, v])
      renamed[f'{attention}.qkv.bias_mask'] = np.ones(3 * D, np.float32)
  return renamed | {
    'mask_token': np.zeros((1, D), np.float32),
    'rope_embed.periods': np.ones(16, np.float32),
  }


def same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('biases', [False, True])
def test_all_layouts_give_the_same_network_and_come_back(gated, biases):
  tensors = timm(gated, biases)
  config, weights = from_dinov3(tensors, dtype='float32')
  assert config == DINOv3Config(
    width=D,
    depth=2,
    heads=1,
    mlp_width=96,
    gated=gated,
    qv_bias=biases,
    dtype='float32',
  )
  expected = weights_of(abstract_network(config))
  assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, expected)
  same(dict(to_dinov3(config, weights)), tensors)
  hub = dict(to_dinov3(config, weights, 'hugging_face'))
  newer = {
    f'model.{k}' if k.startswith('layer.') else k: v for k, v in hub.items()
  }
  for other, layout in (
    (hub, 'hugging_face'),
    (newer, 'hugging_face'),
    (authors(tensors), 'authors'),
  ):
    assert layout_of(other) == layout
    found, same_weights = from_dinov3(other, dtype='float32')
    assert found == config
    same(same_weights, weights)


@pytest.mark.parametrize('size', ['S', 'S+', 'B', 'L', 'H+', '7B'])
def test_released_sizes_have_the_tensors_of_transformers(size):
  torch = pytest.importorskip('torch')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'torchvision', None)  # not needed; may be broken
    transformers = pytest.importorskip('transformers')
    from transformers import DINOv3ViTModel
  config = sized(size)
  with torch.device('meta'):
    theirs = DINOv3ViTModel(
      transformers.DINOv3ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        use_gated_mlp=config.gated,
        query_bias=config.qv_bias,
        value_bias=config.qv_bias,
        num_register_tokens=config.registers,
      )
    )
  tensors = {
    name: np.broadcast_to(np.float32(0), tensor.shape)  # no memory
    for name, tensor in theirs.state_dict().items()
  }
  assert infer_config(tensors) == config
  ours = jax.tree.leaves(nnx.state(abstract_network(config), nnx.Param))
  count = sum(math.prod(a.shape) for a in ours)
  assert count == sum(a.size for a in tensors.values()) - config.width


def test_parameters_of_the_encoders_of_pixeldit2():
  """As timm counts them: of S and B, with the biases of q and v."""
  for size, count in (('S', 21_596_160), ('B', 85_659_648)):
    ours = jax.tree.leaves(nnx.state(abstract_network(sized(size)), nnx.Param))
    # Less the biases of keys, which timm keeps as a buffer.
    assert sum(math.prod(a.shape) for a in ours) == count


def test_loads_by_name_and_path_and_is_kept(tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')
  name = 'facebook/dinov3-vits16-pretrain-lvd1689m'
  config, expected = from_dinov3(timm())
  path, keep = tmp_path / 'model.safetensors', tmp_path / 'kept'
  stored = from_dinov3(timm(), dtype='float32')[1]
  write_safetensors(path, to_dinov3(config, stored, 'hugging_face'))

  def download(repository, file):
    assert (repository, file) == (name, 'model.safetensors')
    return str(path)

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  for source in (name, tmp_path, path):
    found, weights = load_vision(source)
    assert found == config
    same(weights, expected)
  load_vision(name, keep)
  path.unlink()
  same(load_vision(name, keep)[1], expected)


def test_tensors_that_are_no_dinov3_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no DINOv3'):
    from_dinov3({'conv.weight': np.zeros((3, 3))})
  tensors = timm()
  del tensors['blocks.1.gamma_2']
  with pytest.raises(ValueError, match=r'missing: blocks\.1\.gamma_2'):
    from_dinov3(tensors)
  write_safetensors(tmp_path / 'v3.safetensors', timm())
  with pytest.raises(ValueError, match='is a DINOv3: expected a DINOv2'):
    load_dinov2(tmp_path / 'v3.safetensors')
