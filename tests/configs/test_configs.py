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
