"""The newest, every n-th and the best checkpoint stay."""

import math

import pytest

from pixeldit_jax.train.checkpoint.retention import best_step, kept

STEPS = range(100, 1001, 100)


@pytest.mark.parametrize(
  'rule, stay',
  [
    (dict(newest=2), {900, 1000}),
    (dict(newest=1, period=400), {400, 800, 1000}),
    (dict(newest=1, best=300), {300, 1000}),
    (dict(newest=3, period=500, best=100), {100, 500, 800, 900, 1000}),
    (dict(newest=99), set(STEPS)),
  ],
  ids=str,
)
def test_a_rule_keeps(rule, stay):
  assert kept(STEPS, **rule) == stay


def test_the_best_is_lowest_or_highest_and_finite():
  fids = {100: 7.0, 300: 3.0, 500: 3.0, 700: math.nan, 800: -math.inf}
  numbers = {step: dict(fid=fid) for step, fid in fids.items()}
  numbers[200] = dict(kid=0.0)
  assert best_step(STEPS, numbers, 'fid', 'lowest') == 500  # the newer
  assert best_step(STEPS, numbers, 'fid', 'highest') == 100
  assert best_step([100, 200], numbers, 'fid', 'lowest') == 100
  assert best_step(STEPS, numbers, 'dif', 'lowest') is None
  assert best_step(STEPS, numbers, '', 'lowest') is None
