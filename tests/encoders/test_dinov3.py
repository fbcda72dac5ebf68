"""DINOv3 against `transformers` on random networks, and the golden arrays."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.dinov3 import from_dinov3
from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.encoders.dinov3 import (
  DINOv3,
  DINOv3Config,
  rotary_centers,
  sized,
)
from pixeldit_jax.encoders.vision import abstract_network, teacher_features

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'rivals'
SMALL = dict(width=32, depth=3, heads=2)
# Prefix of the arrays, heads of the encoder, the patch of the network.
NETS = {'': (2, 4), 'b512/': (4, 4), 'resize/': (2, 8)}
CASES = ['16x16', '16x24', 'b512/16x16', 'resize/32x16']

run = jax.jit(lambda model, x: model.with_features(x))
features = jax.jit(teacher_features, static_argnums=2)


@functools.cache
def golden():
  with np.load(GOLDEN / 'pixeldit2.npz') as arrays:
    return {name: arrays[name] for name in arrays}


def network(config, weights) -> DINOv3:
  graphdef = nnx.graphdef(abstract_network(config))
  return nnx.merge(graphdef, jax.tree.map(jnp.asarray, weights))


@pytest.fixture(scope='module')
def hub_model(tmp_path_factory):
  """Gated or not to a random model of `transformers` and its folder."""
  torch = pytest.importorskip('torch')
  patch = pytest.MonkeyPatch()
  # It needs no torchvision, and one built for another torch cannot be imported.
  patch.setitem(sys.modules, 'torchvision', None)
  transformers = pytest.importorskip('transformers')

  @functools.cache
  def make(gated, biases=True):
    config = transformers.DINOv3ViTConfig(
      hidden_size=SMALL['width'],
      num_hidden_layers=SMALL['depth'],
      num_attention_heads=SMALL['heads'],
      intermediate_size=72,
      hidden_act='silu' if gated else 'gelu',
      use_gated_mlp=gated,
      query_bias=biases,
      value_bias=biases,
      num_register_tokens=4,
    )
    torch.manual_seed(int(gated))
    model = transformers.DINOv3ViTModel(config).eval()
    with torch.no_grad():
      for name, weight in model.named_parameters():
        # Norms and layer scales near one; the rest as large as what it meets.
        one = float('norm' in name and 'weight' in name or 'lambda' in name)
        weight.copy_(one + 0.2 * torch.randn(weight.shape))
    folder = tmp_path_factory.mktemp('dinov3')
    model.save_pretrained(folder)
    return model, folder

  yield make
  patch.undo()


@pytest.mark.parametrize('gated,biases', [(0, True), (1, True), (1, False)])
@pytest.mark.parametrize('height,width', [(64, 64), (48, 96)])
def test_patch_tokens_are_those_of_transformers(
  hub_model, gated, biases, height, width
):
  torch = pytest.importorskip('torch')
  theirs, folder = hub_model(bool(gated), biases)
  config, weights = load_vision(folder, heads=2, dtype='float32')
  assert config == DINOv3Config(
    **SMALL,
    mlp_width=72,
    gated=bool(gated),
    qv_bias=biases,
    dtype='float32',
  )
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
  with torch.no_grad():
    tokens = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).last_hidden_state
  found, _ = run(network(config, weights), x)
  np.testing.assert_allclose(found, tokens[:, 5:].numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_every_stage_is_the_golden_one(case, assert_close):
  arrays, prefix = golden(), case.rpartition('/')[0]
  prefix += '/' * bool(prefix)
  heads, patch = NETS[prefix]
  start = f'{prefix}enc/'
  tensors = {
    name.removeprefix(start): array
    for name, array in arrays.items()
    if name.startswith(start)
  }
  model = network(
    *from_dinov3(tensors, heads=heads, dtype='float32', scan=False)
  )
  seen = arrays[f'{case}/enc_input'].transpose(0, 2, 3, 1)
  out, blocks = run(model, seen)
  for i, block in enumerate(blocks):
    assert_close(block, arrays[f'{case}/enc_block_{i}'], 1e-5)
  expected = arrays[f'{case}/enc_out'][:, 5:]
  assert_close(out, expected, 1e-5)
  images = jnp.asarray(arrays[f'{case}/x'].transpose(0, 2, 3, 1))
  assert_close(features(model, images, patch), expected, 1e-5)


def test_angles_are_the_golden_ones(assert_close):
  config = DINOv3Config(width=24, heads=2)
  cos, sin = rotary_centers(config, (4, 4), before=5)
  # Theirs have each angle twice, for the two channels of a pair.
  assert_close(cos[5:], golden()['rope/enc_cos'][:, :6], 1e-6)
  assert_close(sin[5:], golden()['rope/enc_sin'][:, :6], 1e-6)
  np.testing.assert_array_equal(cos[:5], 1)
  np.testing.assert_array_equal(sin[:5], 0)


@functools.cache
def random_network(**changes):
  sizes = SMALL | dict(mlp_width=64, patch_size=4, dtype='float32') | changes
  return nnx.jit(lambda: DINOv3(DINOv3Config(**sizes), rngs=nnx.Rngs(0)))()


def images(height, width, channels=3):
  rng = np.random.default_rng(1)
  return rng.normal(size=(2, height, width, channels)).astype(np.float32)


def test_scanned_and_unrolled_agree():
  x = images(16, 16)
  scanned, _ = run(random_network(), x)
  unrolled, _ = run(random_network(scan=False), x)
  np.testing.assert_allclose(scanned, unrolled, atol=1e-5)


def test_bfloat16_is_near_float32():
  x = images(16, 16)
  with jax.numpy_dtype_promotion('standard'):  # as JAX's own attention needs
    found, _ = run(random_network(dtype='bfloat16'), x)
  exact, _ = run(random_network(), x)
  assert found.dtype == jnp.float32
  cosine = np.sum(found * exact, -1) / (
    np.linalg.norm(found, axis=-1) * np.linalg.norm(exact, axis=-1)
  )
  assert cosine.min() > 0.999


def test_no_gradient_flows_through_it():
  x = jnp.asarray(images(16, 16))
  model = random_network()
  out, grad = jax.jit(
    jax.value_and_grad(lambda x: teacher_features(model, x, 4).std())
  )(x)
  assert out > 0
  assert not grad.any()


def test_every_weight_names_its_axes():
  model = abstract_network(DINOv3Config(gated=True))
  for path, weight in nnx.iter_graph(model):
    if isinstance(weight, nnx.Param):
      assert len(weight.get_metadata('axes')) == weight.ndim, path


def test_impossible_sizes_are_refused():
  with pytest.raises(ValueError, match='multiples of 4, not 16 x 18'):
    random_network()(jnp.zeros((1, 16, 18, 3)))
  with pytest.raises(ValueError, match='width=30 with 4 heads'):
    DINOv3Config(width=30, heads=4)
  with pytest.raises(ValueError, match="'XXL'"):
    sized('XXL')
