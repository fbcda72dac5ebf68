"""Every configuration: valid as it is, and trained for its debug steps."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from pixeldit_jax.cli.config_flag import packaged_names
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.model.cost import count_parameters
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.optim.optimizer import make_schedule

ROOT = pathlib.Path(__file__).parents[2]
FILES = [ROOT / 'configs' / f'{name}.py' for name in packaged_names()]


def load(path: pathlib.Path, arg: str | None = None):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
def test_it_is_valid(path):
  validate(load(path))


@pytest.mark.slow
@pytest.mark.parametrize(
  'path',
  [
    pytest.param(path, marks=[pytest.mark.slow] * path.stem.startswith('t2i'))
    for path in FILES
  ],
  ids=lambda p: p.stem,
)
def test_it_trains_its_debug_steps(path, tmp_path):
  pytest.importorskip('mlxtend')
  config = load(path, 'debug')
  state = train(RunContext.build(config), str(tmp_path))
  assert int(state.step) == config.steps
  assert all(
    bool(jax.numpy.isfinite(w).all()) for w in jax.tree.leaves(state.weights)
  )


FAMILY = (
  *('pixeldit2', 'deco', 'pixnerd', 'flatdit', 'jit', 'pmf'),
  *('dit', 'pixelflow'),
)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['imagenet256', pytest.param('mnist', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('model', FAMILY)
def test_each_network_of_the_family_trains_a_step(model, name, tmp_path):
  pytest.importorskip('mlxtend')
  config = load(ROOT / 'configs' / f'{name}.py', f'model={model},debug')
  config.steps = 1
  config.optimizer.warmup_steps = 0
  context = RunContext.build(config, jax.devices()[:1])
  state = train(context, str(tmp_path))
  assert int(state.step) == 1 and int(state.bad_steps) == 0


@pytest.mark.parametrize(
  'name, arg, millions, sampler, steps',
  [
    ('imagenet256', 'deco', 682, ('euler', 100, 3.2, (0.1, 1.0)), 4_000_000),
    ('imagenet512', 'deco', 682, ('euler', 100, 5.0, (0.1, 1.0)), 100_000),
    (
      'imagenet256',
      'deco,size=L',
      427,
      ('euler', 50, 3.2, (0.1, 1.0)),
      200_000,
    ),
    ('imagenet256', 'pixnerd', 701, ('euler', 100, 3.5, (0.1, 1.0)), 1_600_000),
    ('imagenet512', 'pixnerd', 701, ('euler', 100, 3.5, (0.1, 1.0)), 200_000),
    ('imagenet256', 'flatdit', 676, ('euler', 50, 1.0, (0.1, 1.0)), 200_000),
    ('imagenet256', 'jit', 953, ('heun', 50, 2.2, (0.1, 1.0)), 750_600),
    ('imagenet256', 'jit,size=B', 131, ('heun', 50, 3.0, (0.1, 1.0)), 750_600),
    ('imagenet512', 'jit,size=B', 133, ('heun', 50, 3.0, (0.1, 1.0)), 750_600),
    ('imagenet256', 'pixeldit2', 986, ('heun', 50, 2.4, (0.125, 0.9)), 750_000),
    ('imagenet512', 'pixeldit2', 988, ('heun', 50, 2.1, (0.1, 0.925)), 850_000),
  ],
)
def test_the_family_trains_and_samples_as_its_papers(
  name, arg, millions, sampler, steps
):
  config = load(ROOT / 'configs' / f'{name}.py', f'model={arg}')
  validate(config)
  parameters = count_parameters(model_config(config))
  if config.model.position_grid:  # the public count has the fixed positions
    parameters += config.model.position_grid**2 * config.model.width
  assert round(parameters / 1e6) == millions
  s = config.sampler
  assert (s.solver, s.steps, s.guidance, s.interval) == sampler
  assert config.steps == steps
  o, repa = config.optimizer, config.repa
  assert (o.weight_decay, o.clip_norm) == (0, float('inf'))
  assert (config.ema.decay, config.ema.warmup) == (0.9999, False)
  model = arg.partition(',')[0]
  if model in ('jit', 'pixeldit2'):
    assert (o.learning_rate, o.beta1, o.beta2) == (2e-4, 0.9, 0.95)
    assert (config.data.batch_size, o.warmup_steps) == (1024, 6255)
    assert config.data.flip and config.flow.time_mean == -0.8
    assert config.flow.noise_scale == (2 if name == 'imagenet512' else 1)
    assert s.interval_bounds == 'zero'
  else:
    assert (o.learning_rate, o.beta2, o.warmup_steps) == (1e-4, 0.999, 0)
    assert not config.data.flip and config.data.batch_size == 256
    dropped = 0.2 if arg == 'deco' else 0.1
    assert config.flow.label_dropout == dropped
    assert s.interval_bounds == ('upper' if model == 'deco' else 'open')
  assert config.flow.frequency_weight == (model == 'deco')
  assert (repa.weight, repa.block) == ((0, 8) if model == 'jit' else (0.5, 8))
  joint = config.grounding.joint_dropout
  assert joint == (0.05 if (name, arg) == ('imagenet512', 'pixeldit2') else 0)
  assert bool(config.grounding.encoder) == (model == 'pixeldit2')


@pytest.mark.parametrize(
  'side, size, millions, sigma, mean, beta, omega, interval',
  [
    (256, 'B', 175, 1, -0.8, 1, 8.5, (0.3, 0.9)),
    (512, 'B', 179, 2, -0.8, 1, 6.5, (0.3, 0.9)),
    (256, 'L', 512, 1, -0.8, 2, 7.0, (0.3, 0.8)),
    (512, 'L', 517, 4, 0.0, 1, 7.5, (0.4, 0.8)),
    (256, 'H', 1114, 2, 0.0, 1, 7.0, (0.4, 0.8)),
    (512, 'H', 1120, 4, 0.0, 1, 5.5, (0.4, 0.9)),
  ],
)
def test_pmf_trains_and_samples_as_its_code(
  side, size, millions, sigma, mean, beta, omega, interval
):
  """Its times are 1 - ours: means change their sign, intervals turn round."""
  path = ROOT / 'configs' / f'imagenet{side}.py'
  config = load(path, f'model=pmf,size={size}')
  validate(config)
  assert round(count_parameters(model_config(config)) / 1e6) == millions
  assert config.flow.noise_scale == sigma
  assert (config.flow.time_mean, config.flow.time_std) == (mean, 0.8)
  assert config.mean_flow.beta == beta
  assert config.mean_flow.uniform == (0.1 if size == 'H' else 0)
  s, o = config.sampler, config.optimizer
  assert (s.solver, s.steps, s.guidance) == ('jump', 1, omega)
  assert tuple(s.interval) == interval
  assert (o.name, o.learning_rate, o.clip_norm) == ('muon', 1e-3, float('inf'))
  assert config.steps == (360 if size == 'H' else 320) * 1251


@pytest.mark.parametrize(
  'arg, millions, solver, steps, guidance',
  [
    ('dit', 675, 'ddpm', 250, 1.5),
    ('dit,size=S', 33, 'ddpm', 250, 1.5),
    ('pixelflow', 677, 'euler', 30, 2.4),
  ],
)
def test_dit_and_pixelflow_are_as_in_their_code(
  arg, millions, solver, steps, guidance
):
  config = load(ROOT / 'configs/imagenet256.py', f'model={arg}')
  validate(config)
  assert round(count_parameters(model_config(config)) / 1e6) == millions
  s, o = config.sampler, config.optimizer
  assert (s.solver, s.steps, s.guidance) == (solver, steps, guidance)
  assert (o.learning_rate, o.weight_decay, o.warmup_steps) == (1e-4, 0, 0)
  assert o.clip_norm == (1.0 if arg == 'pixelflow' else float('inf'))
  assert config.data.flip and config.flow.label_dropout == 0.1
  assert (config.ema.decay, config.ema.warmup) == (0.9999, False)


@pytest.mark.parametrize('name', ['imagenet256', 'imagenet512'])
@pytest.mark.parametrize(
  'size, millions', [('B', 185), ('L', 570), ('XL', 797)]
)
def test_imagenet_comes_in_the_sizes_of_the_paper(name, size, millions):
  config = load(ROOT / 'configs' / f'{name}.py', f'size={size}')
  assert round(count_parameters(model_config(config)) / 1e6) == millions


@pytest.mark.parametrize(
  'arg, named',
  [
    ('sise=B', 'size'),
    ('size=XXL', 'XXL'),
    ('debug=yes', 'True'),
    ('preset=ep850', 'ep320'),
    ('model=sit', 'recipes for'),
    ('model=jit,size=XL', "size='XL' with model='jit'"),
    ('model=jit,preset=ep80', 'preset=.ep80. is of model=pixeldit'),
  ],
)
def test_wrong_options_are_told(arg, named):
  with pytest.raises(ValueError, match=named):
    load(ROOT / 'configs' / 'imagenet256.py', arg)


@pytest.mark.parametrize(
  'name, preset, epochs, guidance, interval, shift',
  [
    ('imagenet256', 'ep80', 80, 3.25, (0.1, 1.0), 1),
    ('imagenet256', 'ep160', 160, 3.25, (0.1, 1.0), 1),
    ('imagenet256', 'ep320', 320, 2.75, (0.1, 0.9), 1),
    ('imagenet512', 'ep850', 850, 3.5, (0.1, 1.0), 2),
  ],
)
def test_presets_train_and_sample_as_the_paper(
  name, preset, epochs, guidance, interval, shift
):
  config = load(ROOT / 'configs' / f'{name}.py', f'preset={preset}')
  validate(config)
  assert config.steps == epochs * 5_000
  s = config.sampler
  assert (s.solver, s.steps, s.start) == ('flow_dpm', 100, 0)
  assert (s.guidance, s.interval, s.shift) == (guidance, interval, shift)
  repa = config.repa
  assert (repa.weight, repa.block) == (0.5, 8)
  assert repa.teacher == 'facebook/dinov2-base' and not repa.stop_step
  rate = make_schedule(config)
  last = 1e-5 if epochs > 160 else 1e-4
  np.testing.assert_allclose(
    [rate(0), rate(config.steps - 1)], [1e-4, last], rtol=1e-6
  )
  big = name == 'imagenet512'
  assert config.optimizer.clip_norm == (0.5 if big else 1.0)
  assert config.flow.shift == (3.0 if big else 1.0)


def test_a_rate_on_a_schedule_does_not_drop():
  config = load(ROOT / 'configs' / 'mnist.py')
  config.optimizer.drop_step = 100
  with pytest.raises(ValueError, match='drop_step=100.*cosine'):
    validate(config)
