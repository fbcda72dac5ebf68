"""Real processes that are killed, terminated and interrupted: nothing is lost.

Every run is compared bit for bit with one that nobody disturbed.
"""

import ast
import collections
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config, make_debug, model_config
from pixeldit_jax.errors import EXIT_STOPPED
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.workdir import read_history

PROCESS = pathlib.Path(__file__).with_name('process.py')
KILLS = 20


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Ten classes of images: every start would read all digits for seconds."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for label in range(10):
    (folder / str(label)).mkdir()
    for i in range(20):
      image = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
      image.save(folder / str(label) / f'{i}.png')
  return folder


def small_config(images, steps: int, every: int) -> ConfigDict:
  config = get_config()
  make_debug(config)
  config.steps = steps
  config.data.source = f'folder:{images}'
  config.model.update(width=16, patch_depth=1)
  config.checkpoint.update(every=every, keep=3)
  config.log.every = 5
  return config


class Run:
  """A workdir, and the processes that train in it."""

  def __init__(self, folder: pathlib.Path, config: ConfigDict, processes: int):
    self.workdir, self.config = folder / 'run', config
    self._folder, self._count = folder, processes
    folder.mkdir()

  def start(self) -> list[subprocess.Popen]:
    with socket.socket() as s:
      s.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{s.getsockname()[1]}'
    # Of the flags of conftest the last counts: two devices in all.
    devices = f'--xla_force_host_platform_device_count={2 // self._count}'
    env = os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {devices}'}
    started = []
    for i in range(self._count):
      task = dict(
        config=json.loads(self.config.to_json()),
        workdir=str(self.workdir),
        ids=str(self._folder / f'ids-{i}'),
      )
      if self._count > 1:
        task |= dict(address=address, processes=self._count, process=i)
      log = open(self._folder / f'log-{i}', 'a')
      started.append(
        subprocess.Popen(
          [sys.executable, str(PROCESS), json.dumps(task)],
          env=env,
          stdout=log,
          stderr=log,
        )
      )
      log.close()
    return started

  def finish(self) -> None:
    """Trains to the end."""
    for process in self.start():
      assert process.wait(timeout=900) == 0, self.logs()

  def kill_once(self, rng: np.random.Generator, ready, wait: float) -> None:
    """SIGKILL to all processes, up to `wait` seconds after `ready()`."""
    processes = self.start()
    self.until(ready, processes)
    time.sleep(rng.uniform(0, wait))
    for i in rng.permutation(len(processes)):
      processes[i].send_signal(signal.SIGKILL)
    for process in processes:
      process.wait()

  def until(self, ready, processes: list[subprocess.Popen]) -> None:
    """Returns once `ready()`; the processes have to live until then."""
    end = time.monotonic() + 600
    while not ready():
      alive = all(p.poll() is None for p in processes)
      assert alive and time.monotonic() < end, self.logs()
      time.sleep(0.001)

  def starts(self) -> int:
    """How often it was started."""
    return len(read_history(str(self.workdir)))

  def batches(self) -> int:
    """How many were handed out, all starts together."""
    path = self._folder / 'ids-0'
    return path.read_text().count('\n') if path.exists() else 0

  def saving(self) -> list[str]:
    """Checkpoints that are being written."""
    folder = self.workdir / 'checkpoints'
    return [p.name for p in folder.glob('*tmp*')] if folder.is_dir() else []

  def weights(self) -> list:
    """EMA and weights at the end."""
    mesh = sharding.make_mesh({'data': -1})
    return jax.device_get(
      [
        restore_weights(
          CheckpointRef(str(self.workdir), self.config.steps, ema),
          model_config(self.config),
          mesh,
        )[0]
        for ema in (True, False)
      ]
    )

  def ids(self) -> list[dict[int, list[int]]]:
    """Position to ids, of each process; a batch done again was the same."""
    found = []
    for path in sorted(self._folder.glob('ids-*')):
      seen, text = collections.defaultdict(set), path.read_text()
      for position, ids in re.findall(r'^(\d+): (.*)\n', text, re.M):
        seen[int(position)].add(ids)
      assert all(len(ids) == 1 for ids in seen.values())
      found.append({k: ast.literal_eval(*v) for k, v in seen.items()})
    return found

  def logs(self) -> str:
    return '\n'.join(p.read_text() for p in self._folder.glob('log-*'))


def assert_same_end(broken: Run, unbroken: Run):
  jax.tree.map(
    np.testing.assert_array_equal, broken.weights(), unbroken.weights()
  )
  assert broken.ids() == unbroken.ids()
  batch = unbroken.config.data.batch_size
  positions = range(batch, batch * unbroken.config.steps + 1, batch)
  assert all(sorted(ids) == list(positions) for ids in unbroken.ids())


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_killed_at_twenty_moments_it_ends_the_same(tmp_path, images, processes):
  config = small_config(images, steps=300, every=10)
  unbroken = Run(tmp_path / 'unbroken', config, processes)
  unbroken.finish()
  broken = Run(tmp_path / 'broken', config, processes)
  rng = np.random.default_rng(processes)
  unfinished = 0
  for kill in range(KILLS):
    starts, seen = broken.starts(), broken.batches()
    wanted = seen + int(rng.integers(1, 15))
    if kill % 4 == 0:  # while it restores and compiles, or just after
      broken.kill_once(rng, lambda n=starts: broken.starts() > n, wait=2)
    elif kill % 2:  # inside a save
      broken.kill_once(rng, broken.saving, wait=0.05)
    else:  # in any step
      broken.kill_once(rng, lambda n=wanted: broken.batches() >= n, wait=0.2)
    unfinished += bool(broken.saving())
  assert unfinished > KILLS // 8  # these kills were inside a save
  broken.finish()
  assert_same_end(broken, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
  'number, processes',
  [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)],
)
def test_asked_to_stop_it_saves_and_goes_on_exactly(
  tmp_path, images, number, processes
):
  """With two processes, the last one alone is asked."""
  config = small_config(images, steps=300, every=1000)
  unbroken = Run(tmp_path / 'unbroken', config, processes)
  unbroken.finish()
  broken = Run(tmp_path / 'broken', config, processes)
  started = broken.start()
  broken.until(lambda: broken.batches() >= 20, started)
  started[-1].send_signal(number)
  codes = [process.wait(timeout=120) for process in started]
  assert codes == [EXIT_STOPPED] * processes, broken.logs()
  (saved,) = [int(p.name) for p in (broken.workdir / 'checkpoints').iterdir()]
  assert 20 <= saved < 300
  stop = read_history(str(broken.workdir))[-1]
  assert stop['event'] == 'stop' and stop['step'] == saved
  assert f'stopped at step {saved} of 300' in stop['reason']
  # No step before it is done again, and none after it was begun.
  positions = [list(ids)[-1] for ids in broken.ids()]
  assert positions == [saved * config.data.batch_size] * processes
  broken.finish()
  assert broken.batches() == 300
  assert_same_end(broken, unbroken)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path, images):
  config = small_config(images, steps=100_000, every=100_000)
  run = Run(tmp_path / 'run', config, 1)
  (process,) = run.start()
  run.until(lambda: run.batches() >= 5, [process])
  os.kill(process.pid, signal.SIGSTOP)  # both wait for it: none is answered
  process.send_signal(signal.SIGINT)
  os.kill(process.pid, signal.SIGCONT)
  run.until(lambda: 'again to stop at once' in run.logs(), [])
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) in (-signal.SIGINT, EXIT_STOPPED)
