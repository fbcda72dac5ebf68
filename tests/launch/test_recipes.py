"""The paper's recipes from the command line: its teacher, its samplers."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import to_official
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import PixelDiT

ROOT = pathlib.Path(__file__).parents[2]
DEBUG = '--config=configs/imagenet256.py:debug'
SAMPLER_OF_FLAGS = """
import json
from pixeldit_jax.cli import run_command, sample_flags
run_command.run(
  lambda: print(
    json.dumps(sample_flags.read_run()[0].config.sampler.to_dict())
  )
)
"""

pytestmark = pytest.mark.slow


def run(*command: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Of a released file of the debug network."""
  folder = tmp_path_factory.mktemp('released')
  sizes = dict(num_classes=10, patch_size=7, width=32, heads=2)
  sizes |= dict(patch_depth=2, pixel_width=8, pixel_depth=1)
  model = PixelDiT(ModelConfig(**sizes), rngs=nnx.Rngs(0))
  write_safetensors(folder / 'a.safetensors', to_official(model))
  done = run(
    'launch/convert.py',
    f'--source={folder}/a.safetensors',
    f'--workdir={folder}/run',
    DEBUG,
  )
  assert done.returncode == 0, done.stderr
  return f'--workdir={folder}/run'


def test_a_released_file_is_sampled_as_a_preset_says(workdir, tmp_path):
  preset = f'{DEBUG},preset=ep320'
  done = run('-c', SAMPLER_OF_FLAGS, workdir, preset)
  sampler = json.loads(done.stdout)
  assert (sampler['guidance'], sampler['interval']) == (2.75, [0.1, 0.9])
  done = run('-c', SAMPLER_OF_FLAGS, workdir)
  assert json.loads(done.stdout)['guidance'] == 3.25  # as it was converted
  done = run(
    'launch/sample.py', workdir, preset, f'--out={tmp_path}', '--num_samples=2'
  )
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / 'samples.npz') as file:
    assert file['arr_0'].shape == (2, 28, 28, 3)


def test_a_preset_of_another_network_is_refused(workdir, tmp_path):
  other = '--config=configs/imagenet512.py:preset=ep850'
  done = run('launch/sample.py', workdir, other, f'--out={tmp_path}/out')
  assert done.returncode != 0
  assert 'of another network' in done.stderr
  assert 'model.width: 32 stored, 1152 asked for' in done.stderr
  assert 'data.resolution: 28 stored, 512 asked for' in done.stderr
  assert not list(tmp_path.iterdir())


def test_no_run_without_the_teacher_that_was_asked_for(tmp_path):
  done = run(
    'launch/train.py',
    '--config=configs/imagenet256.py',
    f'--config.repa.teacher={tmp_path}/absent.safetensors',
    f'--workdir={tmp_path}/run',
  )
  assert done.returncode != 0
  assert 'Two ways to get them: (1) by name' in done.stderr
  assert not list(tmp_path.iterdir())
