"""SIGTERM at any moment of a run that evaluates and draws: nothing is lost.

`PIXELDIT_STOPS=40` asks for as many moments in place of a few.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import model_config
from pixeldit_jax.errors import EXIT_STOPPED
from pixeldit_jax.sharding import make_mesh
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.workdir import read_config, read_evaluations

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24
FLAGS = {
  'config': 'configs/mnist.py:debug',
  'config.model.width': 16,
  'config.model.patch_depth': 1,
  'config.steps': STEPS,
  'config.checkpoint.every': 8,
  'config.log.every': 1,
  'config.log.samples_every': 6,
  'config.log.samples': 20,
  'config.eval.every': 6,
  'config.eval.samples': 40,
  'config.eval.features': 'none',
  'config.sampler.batch_size': 10,
  'config.sampler.steps': 8,
  'config.data.batch_size': 4,
}


@pytest.fixture(scope='module', autouse=True)
def images(tmp_path_factory):
  """Few, so that each start is quick; also what samples are measured by."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for label in range(10):
    (folder / str(label)).mkdir()
    for i in range(4):
      image = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
      image.save(folder / str(label) / f'{i}.png')
  for key in ('data.source', 'eval.reference'):
    FLAGS[f'config.{key}'] = f'folder:{folder}'


def start(workdir) -> subprocess.Popen:
  flags = [f'--{name}={value}' for name, value in FLAGS.items()]
  one = '--xla_force_host_platform_device_count=1'  # of several the last counts
  return subprocess.Popen(
    [sys.executable, 'launch/train.py', f'--workdir={workdir}', *flags],
    cwd=ROOT,
    env=os.environ | dict(XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} {one}'),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def hears(process: subprocess.Popen) -> bool:
  """Whether it handles SIGTERM by now: Python itself takes a moment."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  caught = int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16)
  return bool(caught >> (signal.SIGTERM - 1) & 1)


def finish(workdir) -> float:
  """Trains to the end; the seconds that it took."""
  began = time.monotonic()
  process = start(workdir)
  said, _ = process.communicate(timeout=900)
  assert process.returncode == 0, said
  return time.monotonic() - began


def stop(workdir, after: float) -> float | None:
  """Asks a run to stop after some seconds; how long that took.

  None where it came to its end before.
  """
  process = start(workdir)
  while not hears(process):
    assert process.poll() is None
    time.sleep(0.01)
  try:
    said, _ = process.communicate(timeout=after)
    assert process.returncode == 0, said
    return None
  except subprocess.TimeoutExpired:
    pass
  process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  said, _ = process.communicate(timeout=300)
  if 'Trained.' in said:  # it was at its end; Python itself hears no more
    return None
  assert process.returncode == EXIT_STOPPED, (after, said)
  return time.monotonic() - began


def end_of(workdir) -> list:
  """Weights, average and what the evaluations found."""
  mesh, model = make_mesh({'data': -1}), model_config(read_config(workdir))
  weights = [
    restore_weights(CheckpointRef(str(workdir), STEPS, ema), model, mesh)[0]
    for ema in (True, False)
  ]
  return [jax.device_get(weights), read_evaluations(str(workdir))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_stopped_anywhere_it_saves_in_time_and_ends_the_same(tmp_path):
  finish(tmp_path / 'first')  # fills the cache of compiled programs
  whole = finish(tmp_path / 'unbroken')
  unbroken = end_of(tmp_path / 'unbroken')
  rng, waits, early = np.random.default_rng(0), [], 0
  while len(waits) < int(os.environ.get('PIXELDIT_STOPS', '6')):
    workdir = tmp_path / f'run{len(waits)}'
    after = rng.uniform(0, whole)
    if (wait := stop(workdir, after)) is None:
      early += 1
      assert early < 100
      subprocess.run(['rm', '-r', workdir], check=True)
      continue
    waits.append(wait)
    finish(workdir)
    jax.tree.map(np.testing.assert_array_equal, end_of(workdir), unbroken)
    print(
      len(waits),
      f'after {after:.1f} of {whole:.1f} s: stopped in {wait:.1f} s',
      flush=True,
    )
  assert max(waits) < 15
