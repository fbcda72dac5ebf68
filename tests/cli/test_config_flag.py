"""What --config takes: packaged names, files, runs; and what it refuses."""

import pathlib

import pytest

from pixeldit_jax.cli import config_flag
from pixeldit_jax.config import get_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run.workdir import write_config

FILE = """
from pixeldit_jax import config as defaults

def get_config(arg=None):
  config = defaults.get_config()
  config.steps = int(arg or 5)
  return config
"""


@pytest.fixture(autouse=True)
def outside_a_clone(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
  'name', ['imagenet256', 'imagenet256.py', 'configs/imagenet256.py']
)
def test_packaged_names_work_anywhere(name):
  assert config_flag.load(f'{name}:size=B').model.width == 768
  assert config_flag.load(name).model.width == 1152


def test_names_are_the_files_of_configs():
  names = config_flag.packaged_names()
  assert {'mnist', 'imagenet256', 't2i_512_stage1'} <= set(names)
  assert not [name for name in names if name.startswith('_')]


def test_a_file_of_ones_own(tmp_path):
  (tmp_path / 'mnist.py').write_text(FILE)
  assert config_flag.load('mnist.py').steps == 5
  assert config_flag.load('mnist.py:7').steps == 7
  assert config_flag.load(f'{tmp_path}/mnist.py:7').steps == 7
  assert config_flag.load('mnist').steps == 1600  # the packaged one


def test_a_run_gives_its_configuration_with_the_types_of_the_defaults(tmp_path):
  config = get_config()
  config.steps, config.sampler.interval = 7, (0.25, 0.75)
  del config.ema['warmup']  # of a run that is older than this key
  (tmp_path / 'run').mkdir()
  write_config(str(tmp_path / 'run'), config)
  for name in ('run', './run', str(tmp_path / 'run')):
    read = config_flag.load(name)
    assert read.steps == 7 and read.ema.warmup
    assert read.sampler.interval == (0.25, 0.75)
    read.data.caption_min_score = 2.5  # a placeholder, null in JSON


def test_a_packaged_name_is_no_run_of_that_name(tmp_path):
  """`train --config=mnist --workdir=mnist`, twice, is the same both times."""
  config = get_config()
  (tmp_path / 'mnist').mkdir()
  write_config(str(tmp_path / 'mnist'), config)
  assert config_flag.load('mnist').steps == 1600
  assert config_flag.load('./mnist').steps == config.steps


@pytest.mark.parametrize(
  'name', ['imagnet256', 'configs/none.py:debug', '/nowhere/run', '.', '']
)
def test_unknown_names_are_one_line_with_the_known(name):
  with pytest.raises(UserError, match='imagenet256.*t2i_digits') as error:
    config_flag.load(name)
  assert '\n' not in str(error.value) and name in str(error.value)


def test_a_file_without_get_config(tmp_path):
  (tmp_path / 'empty.py').write_text('x = 1\n')
  with pytest.raises(UserError, match='empty.py defines no get_config'):
    config_flag.load('empty.py')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='no Python file'):
    config_flag.load('config.json')


def test_wrong_options_are_the_users():
  with pytest.raises(UserError, match="option 'width'"):
    config_flag.load('imagenet256:width=B')


def test_a_bug_in_a_file_keeps_its_traceback(tmp_path):
  (tmp_path / 'bug.py').write_text('def get_config():\n  return int("x")\n')
  with pytest.raises(RuntimeError, match='bug.py') as error:
    config_flag.load('bug.py')
  assert isinstance(error.value.__cause__, ValueError)


def test_the_packaged_files_are_those_of_the_clone():
  configs = pathlib.Path(__file__).parents[2] / 'configs'
  assert configs.samefile(config_flag.PACKAGED)
