"""The processes of a run: how they find each other, what they agree on."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def initialize(
  address: str | None = None, count: int | None = None, index: int | None = None
) -> bool:
  """Connects this process with the others; call it before any use of JAX.

  Args:
    address: host and port of process 0; None where JAX finds the others itself
      (Cloud TPU slices, GKE with TPUs, SLURM), or where there are none.
    count: number of processes.
    index: of this process.

  Returns:
    Whether there is a cluster.

  Raises:
    RuntimeError: JAX was used before, or the others do not come within five
      minutes.
  """
  if address is not None:
    jax.distributed.initialize(
      address,
      count,
      index,
      # Else JAX would give a SLURM task one GPU, even the only one of a host.
      cluster_detection_method='deactivate',
    )
    return True
  if count == 1 or os.environ.get('SLURM_NTASKS') == '1':
    return False  # JAX would give a lone SLURM task one GPU of several
  try:
    jax.distributed.initialize()
  except ValueError as error:
    # JAX's message where it found neither a cluster nor an address.
    if 'coordinator_address should be defined' not in str(error):
      raise
    return False
  return True


def in_any(value: bool) -> bool:
  """Whether a value is True in at least one process; all have to call it."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.array(value)).any())


def wait_for_all(name: str) -> None:
  """Returns once every process has called it with this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
