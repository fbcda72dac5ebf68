"""A run in a bucket is that on a disk: trained, killed, resumed and read."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax import files, outputs
from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run import tensorboard, workdir

PROCESS = pathlib.Path(__file__).with_name('process.py')
LAUNCH = pathlib.Path(__file__).parents[3] / 'launch'
COMMANDS = (
  'sample --workdir={run} --num_samples=12 --out={run}/out/samples',
  'evaluate --features=none --images={run}/out/samples/samples.npz '
  '--reference=folder:{data} --out={run}/out/measured',
  'evaluate --features=none --workdir={run} --reference=folder:{data} '
  '--num_samples=12 --out={run}/out/evaluated',
  'edit --workdir={run} --images={data}/0/0.png --source_prompt=0 '
  '--target_prompt=3 --out={run}/out/edited',
  'convert --workdir={run} --out={run}/out/weights.safetensors',
)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Ten classes of images on a disk."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for label in range(10):
    (folder / str(label)).mkdir()
    for i in range(8):
      pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
      Image.fromarray(pixels).save(folder / str(label) / f'{i}.png')
  return str(folder)


@pytest.fixture(scope='module')
def on_disk(images, tmp_path_factory):
  """The run that all others have to equal, and what commands make of it."""
  run = str(tmp_path_factory.mktemp('on_disk') / 'run')
  train(RunContext.build(config_of(images)), run)
  call_commands(run, images)
  return run


@pytest.fixture(params=['gs', 's3'])
def bucket(request, cloud, images):
  """A bucket that has the same images."""
  made = cloud(request.param, 'runs')
  buckets.check(made)
  for name, path in files.walk(images):
    buckets.put(f'{made}/images/{name}', pathlib.Path(path))
  return made


def config_of(source):
  config = get_config()
  make_debug(config)
  config.steps = 8
  config.data.source = f'folder:{source}'
  config.model.update(width=16, patch_depth=1)
  config.checkpoint.update(every=2, keep=2)
  config.log.every = 1
  return config


def call_commands(run, data):
  for command in COMMANDS:
    name, *flags = command.format(run=run, data=data).split()
    subprocess.run([sys.executable, LAUNCH / f'{name}.py', *flags], check=True)


def train_with_kills(run, config, ids, steps):
  """SIGKILL once each of these steps is saved; then to the end."""
  task = dict(config=json.loads(config.to_json()), workdir=run, ids=ids)
  for step in steps:
    process = subprocess.Popen([sys.executable, str(PROCESS), json.dumps(task)])
    while not buckets.below(f'{run}/checkpoints/{step}/commit_success.txt'):
      assert process.poll() is None, 'it ended before it could be killed'
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    buckets.remove([f'{run}/lock'])  # else the next waits for a beat
  train(RunContext.build(config), run)


def weights_in(run, source):
  config = config_of(source)
  context = RunContext.build(config)
  return [
    jax.device_get(
      restore_weights(
        CheckpointRef(run, config.steps, ema),
        context.model,
        context.mesh,
      )[0]
    )
    for ema in (True, False)
  ]


def results(run, data):
  """What the commands wrote, but for settings, which name the folders."""
  return {
    name: path.read_bytes().replace(data.encode(), b'DATA')
    for name, path in files.walk(f'{run}/out')
    if not name.endswith('.json') and outputs.MANIFEST not in name
  }


@pytest.mark.slow
def test_killed_and_resumed_in_a_bucket_it_is_the_run_on_a_disk(
  bucket, images, on_disk, tmp_path, monkeypatch
):
  """Killed three times; workdir, data and results are all in the bucket."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  run, data = f'{bucket}/killed', f'{bucket}/images'
  train_with_kills(run, config_of(data), str(tmp_path / 'ids'), (2, 4, 6))
  jax.tree.map(
    np.testing.assert_array_equal,
    weights_in(run, data),
    weights_in(on_disk, images),
  )
  assert workdir.read_progress(run)['saved'] == 8
  events = tensorboard.read_events(f'{run}/events')
  steps = [step for step, _ in events.scalars['loss']]
  assert steps[-1] == 8
  call_commands(run, data)
  there, here = results(run, data), results(on_disk, images)
  assert there == here and len(there) == 12 + 2 + 2 + 4 + 1
  measured = [
    files.read_json(f'{one}/out/measured/result.json')['metrics']
    for one in (run, on_disk)
  ]
  assert measured[0] == measured[1]
  assert not list(tmp_path.glob('*:*'))
  assert not list(pathlib.Path().glob('*:*'))
