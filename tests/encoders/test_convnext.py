"""ConvNeXt V2 against the public code, and as a judge of images."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.convnext import from_convnext, load_convnext
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.encoders.frozen import with_weights
from pixeldit_jax.errors import UserError

WIDTHS, DEPTHS = (8, 12, 16), (1, 1, 2)
# Of the authors for Hugging Face's, in this order.
AUTHORS = (
  ('convnextv2.', ''),
  ('embeddings.patch_embeddings', 'downsample_layers.0.0'),
  ('embeddings.layernorm', 'downsample_layers.0.1'),
  ('encoder.stages.1.downsampling_layer', 'downsample_layers.1'),
  ('encoder.stages.2.downsampling_layer', 'downsample_layers.2'),
  ('encoder.', ''),
  ('.layers.', '.'),
  ('layernorm', 'norm'),
  ('grn.weight', 'grn.gamma'),
  ('grn.bias', 'grn.beta'),
)


def tensors(seed=0):
  """A narrow network's, under the names of Hugging Face."""
  rng = np.random.default_rng(seed)
  found = {}

  def add(name, *shape):
    found[f'convnextv2.{name}.weight'] = rng.normal(0, 0.3, shape)
    of = shape if name.endswith('grn') else shape[:1]
    found[f'convnextv2.{name}.bias'] = rng.normal(0, 0.3, of)

  inputs = 3
  for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS)):
    stage = f'encoder.stages.{i}'
    if i:
      add(f'{stage}.downsampling_layer.0', inputs)
      add(f'{stage}.downsampling_layer.1', width, inputs, 2, 2)
    else:
      add('embeddings.patch_embeddings', width, inputs, 4, 4)
      add('embeddings.layernorm', width)
    for k in range(depth):
      block = f'{stage}.layers.{k}'
      add(f'{block}.dwconv', width, 1, 7, 7)
      add(f'{block}.layernorm', width)
      add(f'{block}.pwconv1', 4 * width, width)
      add(f'{block}.grn', 1, 1, 1, 4 * width)
      add(f'{block}.pwconv2', width, 4 * width)
    inputs = width
  add('layernorm', inputs)
  found['classifier.weight'] = rng.normal(size=(5, inputs))
  return {name: a.astype(np.float32) for name, a in found.items()}


def images(seed=0, side=32):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, (2, side, side, 3)), jnp.float32)


@pytest.mark.slow
def test_features_are_those_of_the_public_code(assert_close):
  torch = pytest.importorskip('torch')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'torchvision', None)  # not needed; may be broken
    transformers = pytest.importorskip('transformers')
    from transformers import ConvNextV2Model
  config = transformers.ConvNextV2Config(
    hidden_sizes=list(WIDTHS), depths=list(DEPTHS), num_stages=len(WIDTHS)
  )
  public = ConvNextV2Model(config).eval()
  named = tensors()
  public.load_state_dict(
    {
      name.removeprefix('convnextv2.'): torch.tensor(a)
      for name, a in named.items()
      if name.startswith('convnextv2.')
    }
  )
  x = images()
  with torch.no_grad():
    nchw = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    expected = public(nchw).pooler_output.numpy()
  config, weights = from_convnext(named)
  assert (config.widths, config.depths) == (WIDTHS, DEPTHS)
  found = jax.jit(lambda w, x: with_weights(config, w)(x))(weights, x)
  assert_close(found, expected, 1e-5)


def test_the_names_of_the_authors_are_read_too(tmp_path):
  named, others = tensors(), {}
  for name, array in named.items():
    for old, new in AUTHORS:
      name = name.replace(old, new)
    others[name] = array
  assert 'stages.2.1.grn.gamma' in others and 'norm.weight' in others
  path = tmp_path / 'convnext.safetensors'
  write_safetensors(path, others)
  config, weights = load_convnext(path, 'float32')
  expected = from_convnext(named)
  assert config == expected[0]
  jax.tree.map(np.testing.assert_array_equal, weights, expected[1])
  write_safetensors(path, dict(a=np.zeros(3, np.float32)))
  with pytest.raises(UserError, match=r'1 tensors \(a, ...\) are no ConvNeXt'):
    load_convnext(path, 'float32')


@pytest.mark.slow
def test_the_distance_of_two_images():
  config, weights = from_convnext(tensors())
  network = with_weights(config, jax.tree.map(jnp.asarray, weights))
  x, y = images(0), images(1)
  np.testing.assert_array_equal(network.distance(x, x), 0)
  apart = network.distance(x, y)
  np.testing.assert_allclose(
    apart, ((network(x) - network(y)) ** 2).sum(-1), rtol=1e-6
  )
  assert (apart > 0).all()
  slope = jax.grad(lambda x: network.distance(x, y).sum())(jnp.zeros_like(x))
  assert np.isfinite(slope).all() and (slope != 0).any()
  with pytest.raises(
    UserError, match='8 x 8: this ConvNeXt sees patches of 16'
  ):
    network(images(side=8))
