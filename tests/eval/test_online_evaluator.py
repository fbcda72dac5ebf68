"""Metrics in training are those of the same samples on disk."""

import dataclasses

import jax
import numpy as np
import pytest

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config, validate
from pixeldit_jax.eval.online_evaluator import OnlineEvaluator
from pixeldit_jax.eval.reference import read_reference
from pixeldit_jax.eval.report import evaluate_images
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.images.image_sets import open_images
from pixeldit_jax.metrics.table import metrics_in_training
from pixeldit_jax.sampling import sample_set


@pytest.fixture
def network(tiny_network):
  """The tiny network, sure that every image shows a 3."""
  threes = lambda features: np.full(len(features), 3)  # noqa: E731
  return dataclasses.replace(tiny_network, classify=threes)


def test_numbers_are_those_of_the_same_samples_on_disk(
  tiny_run, tiny_weights, network, tmp_path
):
  rng = np.random.default_rng(0)
  real = tmp_path / 'real.npz'
  np.savez(real, rng.integers(0, 256, (40, 28, 28, 3), np.uint8))
  reference = read_reference(real, network)
  context, ref = tiny_run
  config = context.config.copy_and_resolve_references()
  config.eval.update(every=1, samples=20)
  config.log.samples = 5
  context = dataclasses.replace(context, config=config)
  evaluator = OnlineEvaluator(context, network, reference)
  ema = jax.device_put(tiny_weights[1], sharding.replicated(context.mesh))
  found = dict(evaluator(4, ema))
  path = tmp_path / 'samples.npz'
  sample_set.make_sample_set(*tiny_run, path, 20)
  images = open_images(path)
  patch = context.model.patch_size
  expected = evaluate_images(
    images, reference, network, settings={}, patch=patch
  )['metrics']
  assert {*metrics_in_training('inception'), 'class_agreement'} <= set(found)
  for name, value in found.items():
    if name != 'samples':
      assert value == pytest.approx(expected[name], rel=1e-6), name
  assert found['class_agreement'] == 0.1
  (five,) = (batch[:5] for batch in images.batches(20))
  np.testing.assert_array_equal(found['samples'], image_grid(five, 3))
  again = dict(evaluator(8, ema))
  again.pop('samples')
  assert again == {name: found[name] for name in again}  # the same seeds


@pytest.mark.parametrize(
  'change, named',
  [
    ({}, 'eval.reference is empty'),
    ({'eval.features': 'clip'}, "eval.features='clip'"),
    ({'eval.features': 'digits', 'eval.samples': 1}, 'eval.samples=1: must'),
    ({'eval.features': 'digits', 'eval.every': -1}, 'eval.every=-1'),
    (
      {'eval.features': 'digits', 'checkpoint.best': 'fid'},
      "best='fid'.* give frechet_distance",
    ),
    ({'checkpoint.best': 'fid', 'eval.every': 0}, 'set eval.every'),
  ],
  ids=str,
)
def test_what_cannot_be_evaluated_is_refused_before_training(change, named):
  config = get_config()
  config.eval.every = 100
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=named):
    validate(config)
