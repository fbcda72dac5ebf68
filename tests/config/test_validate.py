"""Configurations that cannot be are refused by key, value and range."""

import math

import pytest

from pixeldit_jax.config import (
  get_config,
  make_debug,
  parse_options,
  validate,
)
from pixeldit_jax.errors import UserError


@pytest.fixture
def config():
  config = get_config()
  make_debug(config)
  return config


@pytest.mark.parametrize(
  'key, values',
  [
    ('optimizer.clip_norm', [0.0, -1.0, math.nan]),
    ('optimizer.beta1', [1.0, -0.1]),
    ('optimizer.beta2', [1.5, math.nan]),
    ('optimizer.beta3', [1.0]),
    ('optimizer.eps', [0.0, -1e-8]),
    ('optimizer.weight_decay', [-0.1, math.nan]),
    ('optimizer.learning_rate', [math.inf, math.nan, -1.0]),
    ('optimizer.final_learning_rate', [math.inf]),
    ('optimizer.dropped_learning_rate', [math.nan]),
    ('optimizer.warmup_steps', [-1]),
    ('optimizer.max_bad_steps', [0]),
    ('optimizer.name', ['adam']),
    ('optimizer.accumulate', [0]),
    ('ema.decay', [1.0, 1.5, -0.1]),
    ('flow.shift', [0.0, -1.0, math.inf, math.nan]),
    ('flow.label_dropout', [1.1]),
    ('sampler.shift', [math.inf, 0.0]),
    ('sampler.guidance', [math.nan, math.inf]),
    ('sampler.solver', ['rk4']),
    ('log.samples_every', [-1]),
    ('log.gradient_rise', [-1.0]),
    ('checkpoint.keep_period', [-1]),
    ('checkpoint.keep', [0]),
    ('checkpoint.best_is', ['best']),
    ('eval.features', ['vgg']),
    ('eval.samples', [-5]),
    ('steps', [0, 10**12]),
    ('data.batch_size', [0, 10**9]),
    ('data.resolution', [10**6]),
    ('model.products', ['fp4', 'float8', '']),
    ('seed', [-1]),
  ],
)
def test_values_outside_their_range_are_refused(config, key, values):
  for value in values:
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
      validate(config)
    assert str(error.value).startswith(f'{key}={value!r}: must be ')


def test_another_type_is_refused(config):
  with config.ignore_type():
    config.steps = 4.0
  with pytest.raises(UserError, match=r'steps=4.0: must be an integer'):
    validate(config)


def test_unknown_and_missing_keys_are_named(config):
  with config.unlocked():
    config.optimizer.learningrate = 1.0
  with pytest.raises(UserError, match='did you mean optimizer.learning_rate'):
    validate(config)
  with config.unlocked():
    del config.optimizer.learningrate
    del config.ema.decay
  with pytest.raises(UserError, match='ema.decay is missing.*0.9999'):
    validate(config)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'data.caption_weights': 'a=inf'}, 'finite'),
    ({'data.caption_weights': 'a=nan'}, 'finite'),
    ({'optimizer.accumulate': 3}, 'does not divide'),
    ({'optimizer.drop_step': 9}, 'at most steps=4'),
    (
      {'optimizer.moments': 'bfloat16', 'optimizer.name': 'came'},
      'only the moments of adamw',
    ),
    ({'repa.decay_steps': 9}, 'at most repa.stop_step=0'),
    ({'checkpoint.best': 'fid'}, 'set eval.every'),
    ({'eval.every': 2}, 'eval.reference is empty'),
    (
      {
        'eval.every': 2,
        'eval.features': 'digits',
        'checkpoint.best': 'fid',
      },
      'give frechet_distance',
    ),
    ({'repa.weight': 0.5}, 'needs a teacher'),
    ({'repa.weight': 0.5, 'repa.teacher': 'x'}, 'repa.block=8'),
    ({'log.trace': '9'}, 'first and last step'),
  ],
  ids=str,
)
def test_values_that_do_not_go_together_are_refused(config, changes, message):
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message):
    validate(config)


def test_options_take_the_type_of_their_default():
  options = parse_options('size=B,debug,n=3', size='XL', debug=False, n=1)
  assert options.to_dict() == dict(size='B', debug=True, n=3)
  for wrong in ('sise=B', 'n=x', 'debug=1'):
    with pytest.raises(UserError, match=wrong.split('=')[0]):
      parse_options(wrong, size='XL', debug=False, n=1)
