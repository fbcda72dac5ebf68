"""Steps out of the ordinary are counted, told and remembered."""

import json
import logging

import jax.numpy as jnp
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.train.metric_logger import LateLog
from pixeldit_jax.train.run.goodput import Goodput
from pixeldit_jax.train.run.gradient_watch import Watch


def test_norms_are_compared_with_those_before():
  watch = Watch()
  assert [watch.see(0, 2.0) for _ in range(20)] == [1.0] * 20
  assert watch.see(0, 30.0) == 15.0
  assert watch.see(1, float('nan')) == 1.0 and watch.skipped == 1
  assert watch.see(0, 4.0) == 2.0  # neither spoiled the median


def test_it_is_remembered_over_a_restart():
  watch = Watch()
  for step in range(300):
    watch.see(step % 100 == 0, 1.0 + step)
  again = Watch()
  again.restore(json.loads(json.dumps(watch.state())))
  assert again == watch and again.skipped == 3 and len(again.norms) == 200
  assert again.see(0, 2000.0) == watch.see(0, 2000.0)


class Written:
  """In place of TensorBoard, clock and workdir."""

  def __init__(self):
    self.watch, self.goodput, self.values = Watch(), Goodput(), {}

  def scalars(self, step, values):
    self.values[step] = values

  def read(self, step):
    return {}


@pytest.fixture
def written():
  return Written()


def feed(late, norms, first=1):
  """Metrics of steps; None is one that is not finite. Every second is due."""
  bad = 0
  for step, norm in enumerate(norms, first):
    bad = bad + 1 if norm is None else 0
    metrics = dict(
      loss=jnp.float32(0.5),
      bad_steps=jnp.int32(bad),
      gradient_norm=jnp.float32(jnp.nan if norm is None else norm),
    )
    late.flush()
    late.later(step, metrics, due=step % 2 == 0)
  late.flush(everything=True)


def test_trouble_in_any_step_is_told(written, caplog):
  caplog.set_level(logging.INFO)
  late = LateLog(written, written, written, get_config())
  feed(late, [1.0] * 24 + [25.0, None, 1.0, 1.0])
  assert 'Step 25: gradient norm 25 is 25 times the median' in caplog.text
  assert 'Step 26 was not finite: its update is skipped.' in caplog.text
  assert len(caplog.records) == 2
  assert late.read == 28 and not late.diverged
  assert sorted(written.values) == list(range(2, 29, 2))
  assert written.values[28]['skipped_steps'] == 1
  assert 'goodput/step' in written.values[28]


def test_too_many_in_a_row_are_too_many(written):
  config = get_config()
  config.optimizer.max_bad_steps = 3
  late = LateLog(written, written, written, config)
  feed(late, [1.0, None, None, 1.0, None, None])
  assert not late.diverged
  feed(late, [None, None, None], first=7)
  assert late.diverged == 3
  config.debug_nans = True
  late = LateLog(written, written, written, config)
  feed(late, [1.0, None])
  assert late.diverged == 1
