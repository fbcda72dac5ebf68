"""The data launchers as users run them: prepare, look, and clear errors."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

CONFIG = """
from ml_collections import ConfigDict
def get_config():
  data = dict(source='', resolution=16, batch_size=4, num_threads=1,
              num_workers=0, prefetch=2)
  return ConfigDict(dict(seed=0, data=data))
"""


def launch(name, *flags):
  return subprocess.run(
    [sys.executable, f'launch/{name}.py', *flags],
    env=os.environ | {'PYTHONPATH': os.getcwd()},
    capture_output=True,
    text=True,
  )


@pytest.fixture
def folder(tmp_path):
  for i in range(6):
    path = tmp_path / 'in' / f'k{i % 2}' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 30), (40 * i, 0, 0)).save(path)
  return tmp_path


def test_prepare_then_look(folder):
  out = folder / 'out'
  flags = [f'--source=folder:{folder}/in', f'--out={out}', '--resolution=16']
  done = launch('prepare_data', *flags, '--processes=1')
  assert done.returncode == 0, done.stderr
  assert '6 images of 2 classes' in done.stdout
  assert '6/6' in done.stderr  # the progress bar

  (folder / 'config.py').write_text(CONFIG)
  picture = folder / 'data.png'
  look = [f'--config={folder}/config.py', f'--config.data.source=shards:{out}']
  shown = launch('show_data', *look, f'--out={picture}', '--count=6')
  assert shown.returncode == 0, shown.stderr
  reds = np.unique(np.asarray(Image.open(picture))[..., 0])
  assert set(range(0, 240, 40)) <= set(reds.tolist())

  wrong = launch('show_data', *look, '--config.data.resolution=32')
  assert wrong.returncode == 1 and 'Traceback' not in wrong.stderr
  assert 'resolution is 16, the run expects 32' in wrong.stderr


def test_wrong_flags_are_one_clear_line(folder):
  done = launch('prepare_data', '--source=flickr', f'--out={folder}/out')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert "unknown data source 'flickr'" in done.stderr
  assert not (folder / 'out').exists()
