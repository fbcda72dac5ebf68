"""The data launchers as users run them: prepare, look, and clear errors."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data.sources.open_source import open_source

CONFIG = """
from ml_collections import ConfigDict
def get_config():
  data = dict(source='', resolution=16, batch_size=4, num_threads=1,
              num_workers=0, prefetch=2, buckets=False, flip=False)
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


@pytest.mark.slow
def test_prepare_then_look(folder):
  out = folder / 'out'
  flags = [f'--source=folder:{folder}/in', f'--out={out}', '--resolution=16']
  done = launch('prepare_data', *flags, '--processes=1')
  assert done.returncode == 0, done.stderr
  assert '6 images of 2 classes' in done.stdout
  assert 'Prepared 6 of 6 images' in done.stdout

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
  wrong = launch('show_data', *look, '--config.data.buckets=True')
  assert wrong.returncode == 1 and 'Traceback' not in wrong.stderr
  assert 'prepare-data --buckets' in wrong.stderr


def test_wrong_flags_are_one_clear_line(folder):
  done = launch('prepare_data', '--source=flickr', f'--out={folder}/out')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert "unknown data source 'flickr'" in done.stderr
  assert not (folder / 'out').exists()


def test_features_without_weights_stop_before_any_work(folder):
  flags = [f'--source=folder:{folder}/in', f'--out={folder}/out']
  done = launch('prepare_data', *flags, f'--features={folder}/none.pth')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert 'none.pth' in done.stderr and not (folder / 'out').exists()


@pytest.mark.slow
def test_features_of_a_teacher_are_stored_and_go_on(folder, monkeypatch):
  pytest.importorskip('torch')
  # DINOv2 needs none, and one built for another torch cannot be imported.
  monkeypatch.setitem(sys.modules, 'torchvision', None)
  transformers = pytest.importorskip('transformers')
  size = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=1)
  config = transformers.Dinov2Config(**size, image_size=28, patch_size=14)
  transformers.Dinov2Model(config).save_pretrained(folder / 'teacher')
  out = folder / 'out'
  flags = [f'--source=folder:{folder}/in', f'--out={out}', '--resolution=16']
  flags += [f'--features={folder}/teacher', '--patch_size=8', '--processes=1']
  for _ in range(2):  # the second time, all is there
    done = launch('prepare_data', *flags)
    assert done.returncode == 0, done.stderr
  source = open_source(f'shards:{out}', arrays=['features'])
  assert source[5]['arrays']['features'].shape == (4, 64)
  assert source.arrays['features'].meta['grid'] == [2, 2]
