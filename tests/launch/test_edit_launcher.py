"""`pixeldit edit` and `pixeldit report` as people type them."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]


def launch(name, *flags):
  return subprocess.run(
    [sys.executable, f'launch/{name}.py', *map(str, flags)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.fixture
def pictures(tmp_path):
  folder = tmp_path / 'pictures'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for name in 'ab':
    pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{name}.png')
  return folder


@pytest.mark.slow
def test_pictures_are_inpainted_and_measured(tiny_run, tmp_path, pictures):
  out, run = tmp_path / 'out', tiny_run[1].workdir
  flags = (
    f'--workdir={run}',
    f'--images={pictures}',
    f'--out={out}',
    '--method=inpaint',
    '--mask=box:0,0,28,14',
    '--target_prompt=3',
    '--repeats=2',
    '--measure',
    '--config.sampler.solver=euler',
  )
  done = launch('edit', *flags)
  assert done.returncode == 0, done.stderr
  assert 'psnr         inf' in done.stdout
  with open(out / 'edits.csv') as file:
    rows = list(csv.DictReader(file))
  assert [pathlib.Path(row['image']).name for row in rows] == ['a.png', 'b.png']
  before, after = (
    np.asarray(Image.open(out / kind / '000001_b.png'))
    for kind in ('before', 'after')
  )
  assert before.shape == (28, 28, 3)
  np.testing.assert_array_equal(before[14:], after[14:])
  assert (before[:14] != after[:14]).any()
  again = launch('edit', *flags, '--seed=1')
  assert again.returncode == 1 and 'seed' in again.stderr


@pytest.mark.parametrize(
  'flags, named',
  [
    (['--images=x', '--table=y'], 'one of them'),
    (['--images=nowhere'], 'no file and no folder'),
    (['--images={}', '--method=inpaint'], 'needs --mask'),
    (['--images={}', '--measure'], 'needs --region'),
    (['--images={}', '--strength=0'], 'strength=0.0'),
    (['--images={}', '--grow=-1'], '--grow=-1: '),
    (['--images={}', '--height=0'], '--height=0: '),
    (['--images={}', '--target_prompt=eleven'], "'eleven' is not a class"),
  ],
  ids=str,
)
@pytest.mark.slow
def test_mistakes_are_told_before_anything_is_written(
  tiny_run, tmp_path, pictures, flags, named
):
  out = tmp_path / 'out'
  done = launch(
    'edit',
    f'--workdir={tiny_run[1].workdir}',
    f'--out={out}',
    *(flag.format(pictures) for flag in flags),
  )
  assert done.returncode == 1
  assert named in done.stderr.splitlines()[-1]
  assert not out.exists()


def test_a_run_is_put_on_a_page(tiny_run, tmp_path):
  out = tmp_path / 'run.html'
  done = launch('report', tiny_run[1].workdir, f'--out={out}')
  assert done.returncode == 0, done.stderr
  assert f'Wrote {out}' in done.stdout
  assert out.read_text().startswith('<!doctype html>')
