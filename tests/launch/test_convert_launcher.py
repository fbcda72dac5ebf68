"""From a released file to images and back, by the commands that people type."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lightning import write_lightning

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from pixeldit_jax import config as defaults

def get_config():
  config = defaults.get_config()
  config.model.update(
    num_classes=10, patch_size=4, width=32, heads=2, patch_depth=2,
    pixel_width=8, pixel_depth=2,
  )
  config.data.resolution = 16
  config.sampler.update(steps=2, batch_size=8)
  return config
"""


def launch(name, *flags):
  return subprocess.run(
    [sys.executable, f'launch/{name}.py', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_from_a_released_file_to_images_and_back(tmp_path, golden):
  pytest.importorskip('torch')
  weights = golden('c2i_forward').below('w')
  write_lightning(tmp_path / 'a.ckpt', weights, weights)
  (tmp_path / 'config.py').write_text(CONFIG)
  source = f'--source={tmp_path}/a.ckpt'
  run, config = f'--workdir={tmp_path}/run', f'--config={tmp_path}/config.py'
  out = f'--out={tmp_path}/out'
  done = launch('sample', source, config, run, out, '--num_samples=3')
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / 'out' / 'samples.npz') as file:
    assert file['arr_0'].shape == (3, 16, 16, 3)
  # Without --config the network is seen, and the resolution is told.
  seen = [f'--workdir={tmp_path}/seen', f'--out={tmp_path}/seen_out']
  seen += ['--config.data.resolution=16', '--config.sampler.steps=2']
  done = launch('sample', source, *seen, '--num_samples=1')
  assert done.returncode == 0, done.stderr
  # Another file for the same workdir is no reason to sample the old one.
  done = launch('sample', '--source=b.ckpt', run, out)
  assert done.returncode == 1 and 'something else' in done.stderr
  same = f'--source={os.path.relpath(tmp_path, ROOT)}/a.ckpt'
  done = launch('sample', same, run, out, '--num_samples=3')
  assert done.returncode == 0, done.stderr
  done = launch('convert', source, run, '--step=3')
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    'convert: --step means nothing with --source.'
  )
  done = launch('convert', run, f'--out={tmp_path}/back.pth')
  assert done.returncode == 0, done.stderr
  assert 'Wrote 1 of 1 MB' in done.stdout
  back = read_weights(tmp_path / 'back.pth')
  assert set(back) == set(weights)
  for name, array in weights.items():
    assert back[name].tobytes() == array.tobytes(), name
  assert not (tmp_path / 'README.md').exists()  # others may have theirs there
  done = launch('convert', run, f'--out={tmp_path}/new/back.safetensors')
  assert done.returncode == 0, done.stderr
  assert (
    'library_name: pixeldit_jax' in (tmp_path / 'new' / 'README.md').read_text()
  )
