"""`photos` on folders of five shapes: a picture at the end, no traceback."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

# Of a network that compiles soon; all else is chosen from the pictures.
TINY = (
  *('width=16', 'heads=2', 'patch_depth=1', 'pixel_depth=1'),
  'pixel_width=4',
)


def draw(path: pathlib.Path, height: int, width: int, seed: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, 3, np.uint8)
  Image.fromarray(np.full((height, width, 3), pixels)).save(path)


def flat(folder: pathlib.Path) -> str:
  for i in range(20):
    draw(folder / f'{i}.jpg', 48, 48, i)
  return '20 pictures'


def classes(folder: pathlib.Path) -> str:
  for i in range(20):
    draw(folder / ('cat', 'dog')[i % 2] / f'{i}.png', 48, 48, i)
  return '--config.model.num_classes=2'


def captions(folder: pathlib.Path) -> str:
  for i in range(20):
    draw(folder / f'{i}.jpg', 48, 48, i)
    (folder / f'{i}.txt').write_text(f'picture {i}')
  return '--config.data.encode_texts=True'


def mixed_sizes(folder: pathlib.Path) -> str:
  sides = np.random.default_rng(0).integers(20, 200, (24, 2))
  for i, (height, width) in enumerate(sides):
    draw(folder / f'{i}.jpg', int(height), int(width), i)
  return '24 pictures'


def broken_files(folder: pathlib.Path) -> str:
  for i in range(20):
    draw(folder / f'{i}.jpg', 48, 48, i)
  (folder / '20.jpg').write_bytes(b'no picture')
  (folder / '21.jpg').write_bytes((folder / '1.jpg').read_bytes()[:200])
  (folder / '22.png').touch()
  (folder / 'notes.txt').write_text('of no picture')
  return '3 pictures cannot be read: left out'


def train(folder: pathlib.Path, workdir: pathlib.Path, steps: int) -> str:
  """What a run says, which has to succeed."""
  run = subprocess.run(
    [
      *(sys.executable, 'launch/train.py', '--config=photos'),
      *(f'--config.data.source={folder}', f'--workdir={workdir}'),
      *(f'--config.model.{value}' for value in TINY),
      *(f'--config.steps={steps}', '--config.optimizer.warmup_steps=1'),
    ],
    env=os.environ | {'PYTHONPATH': os.getcwd()},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0 and 'Traceback' not in run.stderr, run.stderr
  return run.stderr + run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  'make',
  [flat, classes, captions, mixed_sizes, broken_files],
  ids=lambda make: make.__name__,
)
def test_a_first_run_ends_with_a_picture(tmp_path, make):
  folder, workdir = tmp_path / 'pictures', tmp_path / 'run'
  said = make(folder)
  assert said in train(folder, workdir, steps=3)
  with Image.open(workdir / 'samples.png') as grid:
    assert min(grid.size) >= 16


@pytest.mark.slow
def test_the_same_command_goes_on(tmp_path):
  folder, workdir = tmp_path / 'pictures', tmp_path / 'run'
  classes(folder)
  train(folder, workdir, steps=2)
  assert 'Resuming from step 2' in train(folder, workdir, steps=3)
