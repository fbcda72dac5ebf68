"""What all processes of a run decide together."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def in_any(value: bool) -> bool:
  """Whether it holds in at least one process; all of them have to ask."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.array(value)).any())


def wait_for_all(name: str) -> None:
  """Returns once every process has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
