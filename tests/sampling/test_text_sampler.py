"""Samples of a text network: prompts, negative prompts, sizes."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pixeldit_jax import config as defaults
from pixeldit_jax import sharding
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.sampling.sampler import make_sample_fn
from pixeldit_jax.sampling.text_sampler import make_prompt_sampler


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


@pytest.mark.slow
def test_prompts_and_negative_prompts_decide_the_image(config):
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda a: random.normal(0, 0.5, a.shape).astype(a.dtype),
    weights_of(abstract_model(defaults.model_config(config))),
  )
  mesh = sharding.make_mesh({'data': -1}, jax.devices()[:4])
  placed = jax.device_put(weights, sharding.replicated(mesh))

  def images(prompts, negative=''):
    sample = make_prompt_sampler(
      *(config, mesh, placed, WordEncoder()), negative=negative, size=(8, 16)
    )
    places = np.zeros(len(prompts))  # the same noise for all
    return np.concatenate(list(sample(prompts, places))).astype(int)

  found = images(['a red seven'] * 8 + ['a blue two', 'a red seven'])
  assert found.shape == (10, 8, 16, 3)
  change = np.abs(found - found[0]).max((1, 2, 3))
  assert change[8] > 0 and change[9] == 0
  assert np.abs(images(['a red seven'], 'blue') - found[0]).max() > 0


def test_an_encoder_of_another_width_is_refused(config):
  with pytest.raises(ValueError, match="'words' is 5 wide.*takes 16"):
    make_prompt_sampler(config, None, None, WordEncoder(width=5))


def test_a_size_that_does_not_divide_is_refused(config):
  mesh = sharding.make_mesh({'data': -1})
  with pytest.raises(ValueError, match='use 8 x 12'):
    make_sample_fn(config, mesh, size=(8, 11))
