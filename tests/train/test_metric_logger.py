"""Unusual steps are counted, reported and remembered; many stop the run."""

import json
import logging

import jax
import jax.numpy as jnp
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import DivergenceError
from pixeldit_jax.train.metric_logger import GradientWatch, MetricLogger
from pixeldit_jax.train.run.goodput import Goodput
from pixeldit_jax.train.state import TrainState


def test_norms_are_compared_with_those_before():
  watch = GradientWatch()
  assert [watch.see(0, 2.0) for _ in range(20)] == [1.0] * 20
  assert watch.see(0, 30.0) == 15.0
  assert watch.see(1, float('nan')) == 1.0 and watch.skipped == 1
  assert watch.see(0, 4.0) == 2.0  # neither changed the median


def test_it_is_remembered_over_a_restart():
  watch = GradientWatch()
  for step in range(300):
    watch.see(step % 100 == 0, 1.0 + step)
  again = GradientWatch()
  again.restore(json.loads(json.dumps(watch.state())))
  assert again == watch and again.skipped == 3 and len(again.norms) == 200
  assert again.see(0, 2000.0) == watch.see(0, 2000.0)


class Written:
  """In place of TensorBoard and the clock."""

  def __init__(self):
    self.values, self.found, self.restarted = {}, {}, []

  def progress(self, step, scalars):
    self.values[step] = scalars

  def evaluation(self, step, scalars, images):
    self.found[step] = scalars, images

  def read(self, step):
    return {}

  def restart(self, step):
    self.restarted.append(step)


@pytest.fixture
def written():
  return Written()


def make_logger(written, config):
  return MetricLogger(
    config,
    writer=written,
    clock=written,
    goodput=Goodput(),
    report=lambda state, batch: f'state {state.step}, batch {batch}',
  )


def state_of(step):
  return TrainState(
    jnp.int32(step), jax.random.key(0), jnp.int32(0), {}, {}, {}
  )


def feed(logger, norms, first=1):
  """Steps by their norm, None if not finite. Every second is logged."""
  bad = 0
  for step, norm in enumerate(norms, first):
    bad = bad + 1 if norm is None else 0
    metrics = dict(
      loss=jnp.float32(0.5),
      bad_steps=jnp.int32(bad),
      gradient_norm=jnp.float32(jnp.nan if norm is None else norm),
    )
    logger.flush(state_of(step), step)
    logger.add(step, metrics, log_now=step % 2 == 0)
  logger.flush(state_of(step), step, everything=True)


def test_trouble_in_any_step_is_told(written, caplog):
  caplog.set_level(logging.INFO)
  logger = make_logger(written, get_config())
  feed(logger, [1.0] * 24 + [25.0, None, 1.0, 1.0])
  assert 'Step 25: gradient norm 25 is 25 times the median' in caplog.text
  assert 'Step 26 was not finite: its update is skipped.' in caplog.text
  assert len(caplog.records) == 2
  assert sorted(written.values) == list(range(2, 29, 2))
  assert written.values[28]['skipped_steps'] == 1
  assert 'goodput/step' in written.values[28]


def test_too_many_in_a_row_are_too_many(written):
  config = get_config()
  config.optimizer.max_bad_steps = 3
  logger = make_logger(written, config)
  feed(logger, [1.0, None, None, 1.0, None, None])
  with pytest.raises(DivergenceError) as error:
    feed(logger, [None, None, None], first=7)
  assert 'in 3 steps in a row, up to step 9' in str(error.value)
  assert 'state 9, batch 9' in str(error.value)
  assert 8 in written.values  # what was read is written before the end


def test_debug_nans_stops_at_the_first(written):
  config = get_config()
  config.debug_nans = True
  with pytest.raises(DivergenceError, match='in 1 steps in a row'):
    feed(make_logger(written, config), [1.0, None])


def test_an_evaluation_does_not_count_as_training(written):
  logger = make_logger(written, get_config())
  logger.evaluated(7, dict(fid=2.0), {})
  assert written.found == {7: (dict(fid=2.0), {})} and written.restarted == [7]
