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
  'convert --workdir={run} --out={run}/out/weights.safetensors',
)


@pytest.fixture(scope='module', params=['gs', 's3'])
def bucket(request, cloud):
  made = cloud(request.param, 'runs')
  buckets.check(made)
  return made


@pytest.fixture(scope='module')
def images(bucket, tmp_path_factory):
  """Ten classes of images, on a disk and in the bucket."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for label in range(10):
    (folder / str(label)).mkdir()
    for i in range(8):
      pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
      Image.fromarray(pixels).save(folder / str(label) / f'{i}.png')
      path = folder / str(label) / f'{i}.png'
      buckets.put(f'{bucket}/images/{label}/{i}.png', path)
  return folder


def config_of(source, steps=6):
  config = get_config()
  make_debug(config)
  config.steps = steps
  config.data.source = f'folder:{source}'
  config.model.update(width=16, patch_depth=1)
  config.checkpoint.update(every=2, keep=2)
  config.log.every = 1
  return config


def weights_in(run, config):
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


@pytest.mark.slow
def test_killed_and_resumed_in_a_bucket_it_is_the_run_on_a_disk(
  bucket, images, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  config = config_of(f'{bucket}/images')
  task = dict(
    config=json.loads(config.to_json()),
    workdir=f'{bucket}/killed',
    ids=str(tmp_path / 'ids'),
  )
  for step in (2, 4):
    process = subprocess.Popen([sys.executable, str(PROCESS), json.dumps(task)])
    saved = f'{bucket}/killed/checkpoints/{step}/commit_success.txt'
    while not buckets.below(saved):
      assert process.poll() is None, 'it ended before it could be killed'
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    buckets.remove([f'{bucket}/killed/lock'])  # else the next waits for a beat
  train(RunContext.build(config), f'{bucket}/killed')
  on_disk = config_of(images)
  train(RunContext.build(on_disk), str(tmp_path / 'run'))
  jax.tree.map(
    np.testing.assert_array_equal,
    weights_in(f'{bucket}/killed', config),
    weights_in(str(tmp_path / 'run'), on_disk),
  )
  assert workdir.read_progress(f'{bucket}/killed')['saved'] == 6
  events = tensorboard.read_events(f'{bucket}/killed/events')
  steps = [step for step, _ in events.scalars['loss']]
  assert steps[-1] == 6
  for command in COMMANDS:
    for run in (f'{bucket}/killed', str(tmp_path / 'run')):
      name, *flags = command.format(run=run, data=images).split()
      subprocess.run(
        [sys.executable, LAUNCH / f'{name}.py', *flags], check=True
      )
  results = {}
  for run in (f'{bucket}/killed', str(tmp_path / 'run')):
    results[run] = {
      name: path.read_bytes()
      for name, path in files.walk(f'{run}/out')
      if not name.endswith('.json') and outputs.MANIFEST not in name
    }
  there, here = results.values()
  assert there == here and len(there) == 12 + 2 + 2 + 1
  measured = [
    files.read_json(f'{run}/out/measured/result.json')['metrics']
    for run in results
  ]
  assert measured[0] == measured[1]
  assert not list(tmp_path.glob('*:*'))
  assert not list(pathlib.Path().glob('*:*'))
