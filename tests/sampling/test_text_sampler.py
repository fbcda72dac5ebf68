"""Samples of a text network: prompts, negative prompts, sizes."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pixeldit_jax import config as defaults
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.sampling.text_sampler import (
  Prompts,
  TextSampler,
  read_prompts,
)


@pytest.fixture(scope='module')
def config() -> ConfigDict:
  config = defaults.get_config()
  defaults.make_debug(config)
  config.model.update(
    preset('pixeldit', 'T2I')
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
  context = RunContext.build(config, jax.devices()[:4])

  def images(texts, negative=''):
    prompts = Prompts(texts, WordEncoder(), negative, (8, 16))
    sampler = TextSampler(context, weights, prompts)
    indices = np.zeros(len(texts), np.int32)  # the same noise for all
    return np.concatenate(list(sampler.sample(texts, indices))).astype(int)

  found = images(['a red seven'] * 8 + ['a blue two', 'a red seven'])
  assert found.shape == (10, 8, 16, 3)
  change = np.abs(found - found[0]).max((1, 2, 3))
  assert change[8] > 0 and change[9] == 0
  assert np.abs(images(['a red seven'], 'blue') - found[0]).max() > 0


def test_an_encoder_of_another_width_is_refused(config):
  context = RunContext.build(config)
  with pytest.raises(UserError, match="'words' is 5 wide.*takes 16"):
    TextSampler(context, None, Prompts(['a'], WordEncoder(width=5)))


def test_a_size_that_does_not_divide_is_refused(config):
  with pytest.raises(UserError, match='use 8 x 12'):
    Sampler(RunContext.build(config), size=(8, 11))


def test_prompts_come_from_a_flag_or_a_file(tmp_path):
  file = tmp_path / 'prompts.txt'
  file.write_text('a red seven\n\n blue digit 2 \n')
  assert read_prompts(None, str(file)) == ['a red seven', 'blue digit 2']
  file.write_bytes(b'\xef\xbb\xbfa red seven\r\nblue digit 2\r\n')
  assert read_prompts(None, str(file)) == ['a red seven', 'blue digit 2']
  assert read_prompts('a red seven; blue digit 2;', None) == [
    'a red seven',
    'blue digit 2',
  ]
  for text, path, named in (
    (None, None, '--prompts'),
    ('a', str(file), 'one of them'),
    (' ; ', None, 'no prompt'),
  ):
    with pytest.raises(ValueError, match=named):
      read_prompts(text, path)
  with pytest.raises(FileNotFoundError):
    read_prompts(None, str(tmp_path / 'nowhere'))
