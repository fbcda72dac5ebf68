"""Joins the processes of one run, on any number of hosts.

A launcher calls `initialize()` first of all. On a Cloud TPU slice, on GKE with
TPUs and in a SLURM step, JAX finds the other processes by itself. Anywhere else
each process is given all three flags:

  pixeldit train ... --coordinator_address=host0:8476 \
    --num_processes=4 --process_id=0   # and 1, 2, 3 on the others

A single process needs nothing; `--num_processes=1` makes it one where JAX would
look for others.
"""

import logging

from absl import flags

log = logging.getLogger(__name__)
ADDRESS = flags.DEFINE_string(
  'coordinator_address',
  None,
  'Host and port of process 0, as in 10.0.0.1:8476. Needed only where the '
  'processes do not find each other (they do on TPU slices and under SLURM).',
)
COUNT = flags.DEFINE_integer(
  'num_processes', None, 'How many processes take part.', lower_bound=1
)
INDEX = flags.DEFINE_integer(
  'process_id', None, 'Which of them this one is, from 0.', lower_bound=0
)
PATIENCE = flags.DEFINE_integer(
  'join_timeout',
  300,
  'Seconds in which all processes have to come.',
  lower_bound=1,
)


@flags.multi_flags_validator(
  ['coordinator_address', 'num_processes', 'process_id'],
  '--coordinator_address=HOST:PORT, --num_processes and --process_id go '
  'together, with process_id below num_processes (or only --num_processes=1).',
)
def _flags_agree(values):
  address, count, index = (
    values[name]
    for name in ('coordinator_address', 'num_processes', 'process_id')
  )
  if address is None and index is None:
    return count in (None, 1)
  if None in (address, count, index):
    return False
  host, _, port = address.rpartition(':')
  return bool(host) and port.isdigit() and index < count


def initialize():
  """Connects this process with the others; call it before any use of JAX.

  Raises:
    RuntimeError: see `multihost.initialize`.
  """
  import jax  # here, so that --help needs no JAX

  from pixeldit_jax import compile_cache
  from pixeldit_jax.train.run import multihost

  found = multihost.initialize(
    ADDRESS.value, COUNT.value, INDEX.value, PATIENCE.value
  )
  compile_cache.enable()
  if not found:
    return
  log.info(
    'process %d of %d, %d of %d devices',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )
