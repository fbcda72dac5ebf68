"""Nothing of a run outlives it by ten seconds, however it died."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config, make_debug

PROCESS = pathlib.Path(__file__).parents[1] / 'train/run/process.py'


def small_config(images):
  config = get_config()
  make_debug(config)
  config.steps = 100_000
  config.model.update(width=16, patch_depth=1, num_classes=2)
  config.data.update(source=f'folder:{images}', num_workers=2, prefetch=2)
  config.log.every = 1
  return config


@pytest.fixture
def images(tmp_path):
  rng = np.random.default_rng(0)
  for label in 'ab':
    (tmp_path / 'images' / label).mkdir(parents=True)
    for i in range(20):
      image = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
      image.save(tmp_path / 'images' / label / f'{i}.png')
  return tmp_path / 'images'


def processes_of(mark: str) -> list[str]:
  """Those that live and have a mark in their environment."""
  found = []
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if mark.encode() in (folder / 'environ').read_bytes():
        command = (folder / 'cmdline').read_bytes().replace(b'\0', b' ')
        found.append(f'{folder.name} {command[:200]!r}')
    except OSError:
      pass
  return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_workers_memory_and_folders_end_with_the_run(tmp_path, images, number):
  temporary = tmp_path / 'tmp'
  temporary.mkdir()
  shared = set(os.listdir('/dev/shm'))
  mark = f'PIXELDIT_TEST_MARK={tmp_path}'
  task = dict(
    config=json.loads(small_config(images).to_json()),
    workdir=str(tmp_path / 'run'),
    ids=str(tmp_path / 'ids'),
  )
  with open(tmp_path / 'log', 'w') as log:
    process = subprocess.Popen(
      [sys.executable, str(PROCESS), json.dumps(task)],
      env=os.environ | dict([mark.split('=')]) | dict(TMPDIR=str(temporary)),
      stdout=log,
      stderr=log,
    )
  seen = tmp_path / 'ids'
  while not (seen.exists() and seen.read_text().count('\n') > 20):
    assert process.poll() is None, (tmp_path / 'log').read_text()
    time.sleep(0.1)
  assert len(processes_of(mark)) > 2  # the workers
  process.send_signal(number)
  process.wait(timeout=60)
  end = time.monotonic() + 10
  while processes_of(mark) and time.monotonic() < end:
    time.sleep(0.1)
  assert processes_of(mark) == []
  assert set(os.listdir('/dev/shm')) - shared == set()
  assert list(temporary.iterdir()) == []
