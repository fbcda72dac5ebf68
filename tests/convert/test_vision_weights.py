"""Both layouts of DINOv2's weights, and how they are found.

That they are converted rightly is shown in tests/encoders/test_vision.py.
"""

import os
import sys

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert import vision
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import (
  from_dinov2,
  infer_config,
  load_dinov2,
)
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig, sized

HUB_NAMES = (
  ('.attention.q_proj.', '.attention.attention.query.'),
  ('.attention.k_proj.', '.attention.attention.key.'),
  ('.attention.v_proj.', '.attention.attention.value.'),
  ('.attention.o_proj.', '.attention.output.dense.'),
)


def original(registers=0, seed=0, **changes):
  """Random tensors under the authors' names; a head is 64 wide."""
  D, depth, grid = 128, 2, 3
  shapes = {
    'cls_token': (1, 1, D),
    'pos_embed': (1, 1 + grid**2, D),
    'mask_token': (1, D),
    'patch_embed.proj.weight': (D, 3, 14, 14),
    'patch_embed.proj.bias': (D,),
    'norm.weight': (D,),
    'norm.bias': (D,),
  }
  if registers:
    shapes['register_tokens'] = (1, registers, D)
  for i in range(depth):
    for name, shape in {
      'norm1': (D,),
      'attn.qkv': (3 * D, D),
      'attn.proj': (D, D),
      'norm2': (D,),
      'mlp.fc1': (4 * D, D),
      'mlp.fc2': (D, 4 * D),
    }.items():
      shapes[f'blocks.{i}.{name}.weight'] = shape
      shapes[f'blocks.{i}.{name}.bias'] = shape[:1]
    shapes[f'blocks.{i}.ls1.gamma'] = shapes[f'blocks.{i}.ls2.gamma'] = (D,)
  rng = np.random.default_rng(seed)
  return {k: rng.random(v, np.float32) for k, v in (shapes | changes).items()}


def hugging_face(tensors):
  """The same tensors under the names of the hub's file."""
  out = {}
  for name, array in tensors.items():
    if '.attn.qkv.' in name:
      block, kind = name.split('.')[1], name.split('.')[-1]
      parts = np.split(array, 3)
      for part, x in zip(parts, ('query', 'key', 'value')):
        out[f'encoder.layer.{block}.attention.attention.{x}.{kind}'] = part
      continue
    for old, new in (
      ('cls_token', 'embeddings.cls_token'),
      ('mask_token', 'embeddings.mask_token'),
      ('register_tokens', 'embeddings.register_tokens'),
      ('pos_embed', 'embeddings.position_embeddings'),
      ('patch_embed.proj', 'embeddings.patch_embeddings.projection'),
      ('blocks.', 'encoder.layer.'),
      ('.attn.proj.', '.attention.output.dense.'),
      ('.ls1.gamma', '.layer_scale1.lambda1'),
      ('.ls2.gamma', '.layer_scale2.lambda1'),
    ):
      name = name.replace(old, new)
    if name.startswith('norm.'):
      name = f'layer{name}'
    out[name] = array
  return out


def same(found, expected):
  chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize('registers', [0, 4])
def test_both_layouts_give_the_same_network(registers):
  tensors = original(registers)
  config, weights = from_dinov2(tensors)
  assert config == VisionConfig(
    width=128, depth=2, heads=2, grid=3, registers=registers
  )
  other, same_weights = from_dinov2(hugging_face(tensors))
  assert other == config
  same(same_weights, weights)


@pytest.mark.parametrize('registers', [0, 4])
def test_weights_have_the_form_of_the_network(registers):
  config, weights = from_dinov2(original(registers), dtype='float32')
  model = nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))
  expected = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), weights)
  assert shapes == jax.tree.map(lambda a: (a.shape, str(a.dtype)), expected)


@pytest.mark.parametrize('size', ['S', 'B', 'L'])
@pytest.mark.parametrize('registers', [0, 4])
def test_released_sizes_have_the_shapes_of_transformers(size, registers):
  torch = pytest.importorskip('torch')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'torchvision', None)  # not needed; may be broken
    transformers = pytest.importorskip('transformers')
    kind = 'Dinov2WithRegisters' if registers else 'Dinov2'
    make_config = getattr(transformers, f'{kind}Config')
    make_model = getattr(transformers, f'{kind}Model')
  config = sized(size, registers=registers)
  more = dict(num_register_tokens=registers) if registers else {}
  with torch.device('meta'):
    theirs = make_model(
      make_config(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        image_size=518,
        patch_size=14,
        **more,
      )
    )
  tensors = {}
  for name, tensor in theirs.state_dict().items():
    for old, new in HUB_NAMES:
      name = name.replace(old, new)
    tensors[name] = np.broadcast_to(np.float32(0), tensor.shape)  # no memory
  assert infer_config(tensors) == config
  count = sum(a.size for a in tensors.values())
  tensors = {k: v for k, v in tensors.items() if 'mask_token' not in k}
  vision._to_native(tensors, config)  # checks all names and shapes
  model = nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))
  ours = jax.tree.leaves(nnx.state(model, nnx.Param))
  assert sum(a.size for a in ours) == count - config.width


def test_loads_by_name_folder_and_path(tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')
  torch = pytest.importorskip('torch')
  tensors = original()
  expected = from_dinov2(tensors)[1]
  path = tmp_path / 'model.safetensors'
  write_safetensors(path, hugging_face(tensors))
  pth = tmp_path / 'dinov2_vitb14_pretrain.pth'
  torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, pth)

  def download(repository, name):
    assert (repository, name) == ('facebook/dinov2-base', 'model.safetensors')
    return str(path)

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  for source in ('facebook/dinov2-base', tmp_path, path, str(pth)):
    same(load_dinov2(source)[1], expected)


def test_converted_once_and_kept(tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')
  path, keep = tmp_path / 'model.safetensors', tmp_path / 'kept'
  write_safetensors(path, hugging_face(original(registers=4)))
  calls = []

  def download(*args):
    calls.append(args)
    return str(path)

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  first = load_dinov2('facebook/dinov2-base', keep, dtype='float32')
  path.unlink()
  second = load_dinov2('facebook/dinov2-base', keep, dtype='float32')
  assert len(calls) == 1
  assert first[0] == second[0]
  same(second[1], first[1])


def test_a_local_file_that_changes_is_converted_again(tmp_path):
  path, keep = tmp_path / 'model.safetensors', tmp_path / 'kept'
  for seed in range(2):
    tensors = original(seed=seed)
    write_safetensors(path, tensors)
    # Even an older file, such as one that was moved here.
    os.utime(path, (1e9 - seed, 1e9 - seed))
    same(load_dinov2(path, keep)[1], from_dinov2(tensors)[1])


def test_no_weights_at_hand_tells_the_two_ways(tmp_path, monkeypatch):
  hub = pytest.importorskip('huggingface_hub')

  def download(*args):
    raise ConnectionError('no network')

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  for source in ('facebook/dinov2-base', str(tmp_path / 'x.pth'), tmp_path):
    with pytest.raises(FileNotFoundError) as error:
      load_dinov2(source)
    text = str(error.value)
    assert 'facebook/dinov2-base' in text
    assert 'dinov2_vitb14_pretrain.pth' in text


def test_tensors_that_are_no_dinov2_are_refused():
  with pytest.raises(ValueError, match='no DINOv2: neither pos_embed'):
    from_dinov2({'conv.weight': np.zeros((3, 3))})
  tensors = original()
  del tensors['blocks.0.mlp.fc1.weight']  # as in the giant, with its SwiGLU
  with pytest.raises(ValueError, match='no DINOv2 of size S, B or L'):
    from_dinov2(tensors)
  tensors = original(**{'blocks.1.attn.proj.weight': (128, 7)})
  del tensors['blocks.1.ls1.gamma']
  with pytest.raises(ValueError) as error:
    from_dinov2(tensors)
  assert 'missing: blocks.1.ls1.gamma' in str(error.value)
  assert 'is (128, 7), expected (128, 128)' in str(error.value)
