"""The processes of a run: how they find each other, what they agree on."""

import logging
import os
import socket
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run import peers

log = logging.getLogger(__name__)


def initialize(
  address: str | None = None,
  count: int | None = None,
  index: int | None = None,
  patience: float = 300,
) -> bool:
  """Connects this process with the others; call it before any use of JAX.

  Args:
    address: host and port of process 0; None where JAX finds the others itself
      (Cloud TPU slices, GKE with TPUs, SLURM), or where there are none.
    count: number of processes.
    index: of this process.
    patience: seconds in which all processes have to come.

  Returns:
    Whether there is a cluster.

  Raises:
    RuntimeError: JAX was used before, or the others do not come and JAX was
      to find them.
    UserError: they do not come to `address`.
  """
  if address is not None:
    if count and count > 1 and index is not None:
      host, _, port = address.rpartition(':')
      peers.join(host.strip('[]'), int(port), count, index, patience)
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
    jax.distributed.initialize(initialization_timeout=round(patience))
  except ValueError as error:
    # JAX's message where it found neither a cluster nor an address.
    if 'coordinator_address should be defined' not in str(error):
      raise
    return False
  _watch_each_other()
  return True


def _watch_each_other() -> None:
  """`peers.join` where JAX found the others, on a port that process 0 tells."""
  from jax._src import distributed

  state: Any = distributed.global_state
  if state.num_processes == 1:
    return
  try:
    host = str(state.coordinator_address).rpartition(':')[0].strip('[]')
    if state.process_id == 0:
      with socket.socket() as free:
        free.bind(('', 0))
        port = free.getsockname()[1]
      state.client.key_value_set('pixeldit/port', str(port))
    port = int(state.client.blocking_key_value_get('pixeldit/port', 60_000))
    peers.join(host, port, state.num_processes, state.process_id, 60)
  except (AttributeError, UserError) as error:
    # Of JAX's private parts, or of a network that has no other port open.
    log.warning('the processes do not watch each other: %s', error)


def in_any(value: bool) -> bool:
  """Whether a value is True in at least one process; all have to call it."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.array(value)).any())


def wait_for_all(name: str) -> None:
  """Returns once every process has called it with this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
