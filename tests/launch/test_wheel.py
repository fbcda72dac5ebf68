"""The wheel, installed in an environment of its own, far from any clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PARTS = (
  'pixeldit_jax',
  'configs',
  'launch',
  'setup.py',
  'pyproject.toml',
  'README.md',
  'LICENSE',
)
pytestmark = pytest.mark.slow


def call(*command, cwd) -> str:
  drop = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')
  env = {k: v for k, v in os.environ.items() if k not in drop}
  done = subprocess.run(
    [*map(str, command)],
    cwd=cwd,
    env=env | {'PIP_DISABLE_PIP_VERSION_CHECK': '1'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  """Built from a copy: setuptools writes into the folder of the sources."""
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  source.mkdir()
  for name in PARTS:
    if (ROOT / name).is_dir():
      ignored = shutil.ignore_patterns('__pycache__')
      shutil.copytree(ROOT / name, source / name, ignore=ignored)
    else:
      shutil.copy(ROOT / name, source)
  pip = (sys.executable, '-m', 'pip', 'wheel', '--no-deps')
  call(*pip, '--no-build-isolation', '-w', folder, source, cwd=folder)
  return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def venv(wheel, tmp_path_factory) -> pathlib.Path:
  """An environment with the wheel; it sees the packages of this one."""
  venv = tmp_path_factory.mktemp('venv')
  call(sys.executable, '-m', 'venv', venv, cwd=venv)
  folders = [path for path in sys.path if path.endswith('-packages')]
  (site,) = venv.glob('lib/python*/site-packages')
  (site / 'packages_of_the_tests.pth').write_text('\n'.join(folders) + '\n')
  pip = (venv / 'bin' / 'python', '-m', 'pip', 'install', '--no-deps')
  call(*pip, '--no-index', wheel, cwd=venv)
  return venv


def test_it_holds_commands_and_configurations_and_nothing_at_the_top(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert 'pixeldit_jax/configs/imagenet256.py' in names
  assert 'pixeldit_jax/launch/train.py' in names
  tops = {name.partition('/')[0] for name in names}
  assert {top for top in tops if '.dist-info' not in top} == {'pixeldit_jax'}


def test_it_trains_and_samples_outside_a_clone(venv, tmp_path):
  pytest.importorskip('mlxtend')
  show = 'import pixeldit_jax; print(pixeldit_jax.__file__)'
  python, pixeldit = venv / 'bin' / 'python', venv / 'bin' / 'pixeldit'
  assert call(python, '-c', show, cwd=tmp_path).startswith(str(venv))
  train = (pixeldit, 'train', '--config=mnist:debug', '--workdir=w')
  assert 'step 4/4  loss' in call(*train, cwd=tmp_path)
  sample = (pixeldit, 'sample', '--workdir=w', '--out=s', '--num_samples=10')
  call(*sample, cwd=tmp_path)
  with np.load(tmp_path / 's' / 'samples.npz') as file:
    assert file['arr_0'].shape == (10, 28, 28, 3)
  assert (tmp_path / 's' / 'samples.png').is_file()
  # Another command, and the configuration of the run.
  show = (pixeldit, 'show-data', '--config=w', '--out=data.png', '--count=4')
  assert 'wrote data.png' in call(*show, cwd=tmp_path)
