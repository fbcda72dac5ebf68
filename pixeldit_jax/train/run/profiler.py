"""Profiler traces of some steps, requested before or during a run.

`config.log.trace='100-110'` traces these steps in every process. A file named
`trace` in the workdir of a running job, seen when it logs next, traces ten
steps of the first process. TensorBoard shows both, below `events`. In a bucket
the file is looked for once a minute, and a trace is copied there.
"""

import logging
import os
import tempfile
import time

import jax
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax import files
from pixeldit_jax.config import parse_steps
from pixeldit_jax.storage import buckets

log = logging.getLogger(__name__)

ON_REQUEST = 10  # steps
_LOOK = 60.0  # seconds between two looks for a request in a bucket


class Tracer:
  """Starts and stops JAX's profiler between steps."""

  def __init__(self, workdir: str, config: ConfigDict):
    self._folder = epath.Path(workdir) / 'events'
    self._request = epath.Path(workdir) / 'trace'
    self._steps = parse_steps(config.log.trace)
    self._every = config.log.every
    self._on = False
    self._disk: tempfile.TemporaryDirectory | None = None
    self._looked = time.monotonic()

  def before(self, step: int) -> None:
    """Starts if this step is to be traced."""
    if (step - 1) % self._every == 0 and self._requested():
      self._steps = range(step, step + ON_REQUEST)
    if not self._on and step in self._steps:
      log.info('Tracing steps %d to %d.', step, self._steps[-1])
      folder = os.fspath(self._folder)
      if buckets.is_remote(folder):
        self._disk = tempfile.TemporaryDirectory(prefix='pixeldit-trace-')
        folder = self._disk.name
      jax.profiler.start_trace(folder)
      self._on = True

  def after(self, step: int, result: jax.Array) -> None:
    """Stops behind the last traced step, once its result is there."""
    if self._on and step == self._steps[-1]:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """Writes what was traced, also of fewer steps than were asked for."""
    if self._on:
      jax.profiler.stop_trace()
      self._on = False
      if self._disk is not None:
        for name, path in files.walk(self._disk.name):
          files.write_bytes(self._folder / name, path.read_bytes())
        self._disk.cleanup()
      log.info('The trace is in %s.', self._folder)

  def _requested(self) -> bool:
    """Whether a trace is requested now; each request counts once."""
    if self._on or jax.process_index():
      return False
    if buckets.is_remote(self._request):
      if time.monotonic() < self._looked + _LOOK:
        return False
      self._looked = time.monotonic()
    if not self._request.exists():
      return False
    self._request.unlink()
    return True
