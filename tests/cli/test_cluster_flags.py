"""Flags of a cluster: real processes that find each other, or need not."""

import os
import socket
import subprocess
import sys

import pytest

# A launcher in small: prints what all processes know together.
LAUNCHER = """
import sys
from absl import app
from pixeldit_jax.cli import cluster_flags

def main(argv):
  assert 'jax' not in sys.modules
  cluster_flags.initialize()
  import jax
  from jax.experimental import multihost_utils
  index = jax.process_index()
  everyone = multihost_utils.process_allgather(jax.numpy.asarray(index))
  print(jax.distributed.is_initialized(), jax.process_count(),
        everyone.ravel().tolist())

app.run(main)
"""


def free_port():
  with socket.socket() as s:
    s.bind(('', 0))
    return str(s.getsockname()[1])


def start(*flags, **variables):
  """A process of its own, without the cluster or devices of this one."""
  strange = ('SLURM_', 'KUBERNETES_', 'OMPI_', 'JAX_', 'XLA_')
  env = {k: v for k, v in os.environ.items() if not k.startswith(strange)}
  return subprocess.Popen(
    [sys.executable, '-c', LAUNCHER, *flags],
    env=env | {'JAX_PLATFORMS': 'cpu'} | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def outputs(processes):
  """The last line of each, once all of them are done."""
  results = [process.communicate(timeout=120) for process in processes]
  for process, (_, stderr) in zip(processes, results):
    assert process.returncode == 0, stderr
  return [stdout.splitlines()[-1] for stdout, _ in results]


def test_two_processes_join_by_flags():
  address = f'127.0.0.1:{free_port()}'
  processes = [
    start(
      f'--coordinator_address={address}',
      '--num_processes=2',
      f'--process_id={index}',
    )
    for index in range(2)
  ]
  assert outputs(processes) == ['True 2 [0, 1]'] * 2


def test_slurm_tasks_join_by_themselves():
  step = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'JAX_COORDINATOR_PORT': free_port(),
  }
  processes = [
    start(**step, SLURM_PROCID=str(index), SLURM_LOCALID=str(index))
    for index in range(2)
  ]
  assert outputs(processes) == ['True 2 [0, 1]'] * 2


def test_one_process_needs_no_others():
  processes = [
    start(),
    start('--num_processes=1', SLURM_JOB_ID='7', SLURM_NTASKS='4'),
    start(  # one task of an interactive job
      SLURM_JOB_ID='7',
      SLURM_STEP_NODELIST='localhost',
      SLURM_NTASKS='1',
      SLURM_PROCID='0',
      SLURM_LOCALID='0',
    ),
  ]
  assert outputs(processes) == ['False 1 [0]'] * 3


@pytest.mark.parametrize(
  'given',
  [
    ['--process_id=1'],
    ['--num_processes=2'],
    ['--coordinator_address=h:1', '--num_processes=2', '--process_id=2'],
    ['--coordinator_address=host', '--num_processes=2', '--process_id=1'],
  ],
)
def test_flags_that_do_not_agree(given):
  process = start(*given)
  _, stderr = process.communicate()
  assert process.returncode == 1
  assert 'go together' in stderr
