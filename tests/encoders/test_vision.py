"""DINOv2 against `transformers`, on random networks with the hub's names."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.vision import load_dinov2
from pixeldit_jax.encoders.vision import (
  DINOv2,
  VisionConfig,
  sized,
  teacher_features,
)

SMALL = dict(width=32, depth=3, heads=2)

run = jax.jit(lambda model, x: model(x))
features = jax.jit(teacher_features, static_argnums=2)


@pytest.fixture(scope='module')
def hub_model(tmp_path_factory):
  """(registers, learned grid) to a random model and the folder it is in."""
  torch = pytest.importorskip('torch')
  patch = pytest.MonkeyPatch()
  # DINOv2 needs no torchvision, and one built for another torch cannot be
  # imported.
  patch.setitem(sys.modules, 'torchvision', None)
  transformers = pytest.importorskip('transformers')
  kinds = {
    False: (transformers.Dinov2Config, transformers.Dinov2Model),
    True: (
      transformers.Dinov2WithRegistersConfig,
      transformers.Dinov2WithRegistersModel,
    ),
  }

  @functools.cache
  def make(registers, grid):
    make_config, make_model = kinds[bool(registers)]
    more = dict(num_register_tokens=registers) if registers else {}
    config = make_config(
      hidden_size=SMALL['width'],
      num_hidden_layers=SMALL['depth'],
      num_attention_heads=SMALL['heads'],
      image_size=14 * grid,
      patch_size=14,
      **more,
    )
    torch.manual_seed(registers + grid)
    model = make_model(config).eval()
    with torch.no_grad():
      for name, weight in model.named_parameters():
        # Norms and layer scales near one; the rest as large as what it meets.
        one = float('norm' in name and 'weight' in name or 'lambda' in name)
        weight.copy_(one + 0.2 * torch.randn(weight.shape))
    folder = tmp_path_factory.mktemp('dinov2')
    model.save_pretrained(folder)
    return model, folder

  yield make
  patch.undo()


def load(folder, **overrides) -> DINOv2:
  overrides = dict(heads=SMALL['heads'], dtype='float32') | overrides
  config, weights = load_dinov2(folder, **overrides)
  model = nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))
  return nnx.merge(nnx.graphdef(model), jax.tree.map(jnp.asarray, weights))


def images(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, height, width, 3)).astype(np.float32)


def expected_tokens(model, x, registers):
  import torch

  with torch.no_grad():
    out = model(torch.from_numpy(x).permute(0, 3, 1, 2)).last_hidden_state
  return out[:, 1 + registers :].numpy()


@pytest.mark.slow
@pytest.mark.parametrize('registers', [0, 4])
@pytest.mark.parametrize(
  'grid,height,width',
  [(37, 224, 224), (4, 56, 56), (4, 42, 70), (16, 112, 448)],
)
def test_patch_tokens_are_those_of_transformers(
  hub_model, registers, grid, height, width
):
  theirs, folder = hub_model(registers, grid)
  x = images(height, width)
  found = run(load(folder), x)
  expected = expected_tokens(theirs, x, registers)
  assert found.shape == (2, height // 14 * width // 14, SMALL['width'])
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scanned_and_unrolled_agree(hub_model):
  _, folder = hub_model(4, 4)
  x = images(56, 56)
  scanned, unrolled = load(folder), load(folder, scan=False)
  np.testing.assert_allclose(run(scanned, x), run(unrolled, x), atol=1e-5)


def test_bfloat16_is_near_float32(hub_model):
  _, folder = hub_model(0, 4)
  x = images(56, 56)
  model = load(folder, dtype='bfloat16')
  assert model.blocks.up.kernel.dtype == jnp.bfloat16
  # JAX's own attention mixes bfloat16 and float32.
  with jax.numpy_dtype_promotion('standard'):
    found = run(model, x)
  exact = run(load(folder), x)
  assert found.dtype == jnp.bfloat16
  found = np.asarray(found, np.float32)
  cosine = np.sum(found * exact, -1) / (
    np.linalg.norm(found, axis=-1) * np.linalg.norm(exact, axis=-1)
  )
  assert cosine.min() > 0.999


def test_positions_of_the_authors_code_have_a_tenth_of_a_patch_more(hub_model):
  torch = pytest.importorskip('torch')
  theirs, folder = hub_model(0, 37)
  learned = theirs.embeddings.position_embeddings.detach()
  square = learned[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
  expected = torch.nn.functional.interpolate(
    square, scale_factor=(16.1 / 37, 20.1 / 37), mode='bicubic'
  )
  expected = expected.permute(0, 2, 3, 1).reshape(320, -1).numpy()
  model = load(folder, position_offset=0.1)
  found = model.positions_at((16, 20))
  np.testing.assert_allclose(found[1:], expected, atol=1e-5)
  np.testing.assert_array_equal(found[0], learned[0, 0].numpy())
  # At the learned grid the offset changes nothing.
  np.testing.assert_array_equal(
    model.positions_at((37, 37)), learned[0].numpy()
  )


def test_teacher_sees_normalised_images_at_14_16_of_the_side(hub_model):
  torch = pytest.importorskip('torch')
  theirs, folder = hub_model(0, 4)
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, size=(2, 64, 96, 3)).astype(np.float32)
  mean = torch.tensor([0.485, 0.456, 0.406])
  std = torch.tensor([0.229, 0.224, 0.225])
  seen = ((torch.from_numpy(x) + 1) / 2 - mean) / std
  seen = torch.nn.functional.interpolate(
    seen.permute(0, 3, 1, 2), size=(56, 84), mode='bicubic'
  ).permute(0, 2, 3, 1)
  expected = expected_tokens(theirs, seen.contiguous().numpy(), 0)
  found = features(load(folder), jnp.asarray(x), 16)
  np.testing.assert_allclose(found, expected, atol=1e-4)


@functools.cache
def random_teacher(**changes):
  config = VisionConfig(**(SMALL | dict(grid=4, dtype='float32') | changes))
  return nnx.jit(lambda: DINOv2(config, rngs=nnx.Rngs(0)))()


def test_teacher_takes_any_student_patch_and_one_channel():
  model = random_teacher()
  grey = jnp.asarray(images(28, 28)[..., :1])
  found = features(model, grey, 4)
  assert found.shape == (2, 49, SMALL['width'])
  colour = jnp.broadcast_to(grey, (2, 28, 28, 3))
  np.testing.assert_array_equal(found, features(model, colour, 4))


def test_no_gradient_flows_through_the_teacher():
  model = random_teacher()
  x = jnp.asarray(images(32, 32))
  out, grad = jax.jit(
    jax.value_and_grad(lambda x: teacher_features(model, x).std())
  )(x)
  assert out > 0
  assert not grad.any()


def test_every_weight_names_its_axes():
  config = VisionConfig(**SMALL, registers=4)
  model = nnx.eval_shape(lambda: DINOv2(config, rngs=nnx.Rngs(0)))
  for path, weight in nnx.iter_graph(model):
    if isinstance(weight, nnx.Param):
      assert len(weight.get_metadata('axes')) == weight.ndim, path


def test_impossible_sizes_are_refused():
  model = random_teacher()
  with pytest.raises(ValueError, match='multiples of 14, not 28 x 30'):
    model(jnp.zeros((1, 28, 30, 3)))
  with pytest.raises(ValueError, match='multiples of the patch, 16'):
    teacher_features(model, jnp.zeros((1, 40, 32, 3)))
  with pytest.raises(ValueError, match='heads'):
    VisionConfig(width=32, heads=5)
  with pytest.raises(ValueError, match='position_offset'):
    VisionConfig(registers=4, position_offset=0.1)
  with pytest.raises(ValueError, match="'XXL'"):
    sized('XXL')
