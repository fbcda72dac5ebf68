"""Samples of a text network: prompts, negative prompts, sizes."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.eval.sampling import make_sample_fn, sample_images
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.train import config as defaults


@pytest.fixture(scope='module')
def config() -> ConfigDict:
  config = defaults.get_config()
  defaults.make_debug(config)
  config.model.update(
    defaults.size_of('T2I')
    | dict(patch_depth=1, pixel_depth=1, width=32, heads=2, patch_size=4)
    | dict(pixel_attention_width=16, pixel_heads=2)
    | dict(text_width=16, text_tokens=8)
  )
  config.data.resolution = 8
  config.sampler.update(
    solver='dpm_solver', steps=2, start=0.001, interval=(0.0, 1.0)
  )
  return config


def test_prompts_and_negative_prompts_decide_the_image(config):
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda a: random.normal(0, 0.5, a.shape).astype(a.dtype),
    weights_of(abstract_model(defaults.model_config(config))),
  )
  mesh = sharding.make_mesh({'data': -1}, jax.devices()[:4])
  encoder = WordEncoder()
  prompts = ['a red seven', 'a blue two', 'a red seven', 'a red seven']
  condition = dict(
    text=encoder.encode(prompts)[0],
    negative=encoder.encode(['', '', 'blue', ''])[0],
  )
  batches = sample_images(
    config,
    mesh,
    make_sample_fn(config, mesh, size=(8, 16)),
    jax.device_put(weights, sharding.replicated(mesh)),
    np.zeros(4),  # the same noise in all places
    condition,
  )
  images = np.concatenate(list(batches)).astype(int)
  assert images.shape == (4, 8, 16, 3)
  change = np.abs(images - images[0]).max((1, 2, 3))
  assert change[1] > 0 and change[2] > 0 and change[3] == 0


def test_a_size_that_does_not_divide_is_refused(config):
  mesh = sharding.make_mesh({'data': -1})
  with pytest.raises(ValueError, match='use 8 x 12'):
    make_sample_fn(config, mesh, size=(8, 11))
