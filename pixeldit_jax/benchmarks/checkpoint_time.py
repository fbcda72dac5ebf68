"""Times a checkpoint: how long it holds the loop, how long it is written.

The state of a configuration is saved twice as in training, the second time in
memory that the first has taken from the system. In place of training steps, a
program that reads all of the EMA runs meanwhile.
"""

import contextlib
import math
import statistics
import tempfile
import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import OutputError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.checkpoint.folders import folder_of
from pixeldit_jax.train.checkpoint.manager import Checkpoints
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import TrainState, abstract_state, state_shardings
from pixeldit_jax.typing import PyTree

_TICK = 0.02  # seconds between two looks at the memory


def measure_checkpoint(
  context: RunContext, steps: int, folder: str | None = None
) -> dict[str, float | str]:
  """Saves the state of a run twice, while steps go on.

  A CPU's memory is the host's: there all arrays of the state alias one buffer
  (`aliased_arrays`), as those of an accelerator take no host memory.

  Args:
    context: configuration, network and mesh.
    steps: that are timed with nothing being written.
    folder: for the temporary workdir; the system's own by default.

  Returns:
    Of the second save, 'held_seconds' that the loop waited, 'written_seconds'
    until it was committed, and the first over the second. And
    'host_memory_over_state': the most that this process ever held beyond what
    it held before, over the bytes that it wrote.
  """
  state = _make_state(context)
  step = jax.jit(
    lambda state: sum(jnp.sum(jnp.abs(a)) for a in jax.tree.leaves(state.ema))
  )
  _seconds(step, state)
  undisturbed = [_seconds(step, state) for _ in range(steps)]
  data = iter(grain.MapDataset.range(1).to_iter_dataset())
  with (
    tempfile.TemporaryDirectory(dir=folder) as workdir,
    contextlib.closing(
      Checkpoints(workdir, context.config.checkpoint)
    ) as checkpoints,
    _Memory() as memory,
  ):
    first, *_ = _save(checkpoints, state, data, step, 1)
    held, written, disturbed = _save(checkpoints, state, data, step, 2)
    size = integrity.size_of(folder_of(workdir) / '2')
  device = jax.devices()[0]
  return dict(
    device=f'{jax.device_count()} x {device.device_kind}',
    state_gigabytes=size / 1e9,
    first_held_seconds=first,
    held_seconds=held,
    written_seconds=written,
    held_over_written=held / written,
    gigabytes_per_second=size / written / 1e9,
    steps_while_writing=len(disturbed),
    step_seconds_while_writing=statistics.median(disturbed),
    step_seconds_alone=statistics.median(undisturbed),
    host_gigabytes=memory.grown / 1e9,
    host_memory_over_state=memory.grown / _local_bytes(state),
  )


def _save(checkpoints, state, data, step, number):
  """Seconds held, seconds until the commit, seconds of each step meanwhile."""
  one = jax.device_put(jnp.int32(number), state.step.sharding)
  state = state.replace(step=one)
  started = time.perf_counter()
  checkpoints.save(state, data, run_counters={}, eval_metrics={})
  held = time.perf_counter() - started
  disturbed = []
  while checkpoints.newest != number:
    disturbed.append(_seconds(step, state))
    checkpoints.poll()
  return held, time.perf_counter() - started, disturbed


def _make_state(context: RunContext) -> TrainState:
  """Random numbers on the mesh, as zeros might be written faster."""
  tx = make_optimizer(context)
  shardings = state_shardings(context.model, tx, context.mesh, context.rules)
  abstract = abstract_state(context.model, tx, shardings)
  if jax.default_backend() == 'cpu':
    return aliased_arrays(abstract)

  def make():
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(abstract)))
    keys = jax.tree.unflatten(jax.tree.structure(abstract), list(keys))
    return jax.tree.map(_random, abstract, keys)

  return jax.jit(make, out_shardings=shardings)()


def aliased_arrays(abstract: PyTree) -> PyTree:
  """Arrays on a CPU that alias one random buffer, so they cost little memory.

  Args:
    abstract: shapes, types and shardings; floats are of 32 bits, counters
      become 0.
  """

  def shard_shape(a):
    return a.sharding.shard_shape(a.shape)

  floats = [a for a in jax.tree.leaves(abstract) if a.dtype == jnp.float32]
  count = max((math.prod(shard_shape(a)) for a in floats), default=0)
  # XLA uses memory in place if it starts at a multiple of 64, else it copies.
  memory = np.empty(4 * count + 64, np.uint8)
  start = -memory.ctypes.data % 64
  buffer = memory[start : start + 4 * count].view(np.float32)
  np.random.default_rng(0).standard_normal(dtype=np.float32, out=buffer)

  def make(a):
    shard = np.zeros(shard_shape(a), a.dtype)
    if a.dtype == jnp.float32:
      shard = buffer[: shard.size].reshape(shard.shape)
    return jax.make_array_from_callback(a.shape, a.sharding, lambda _: shard)

  return jax.tree.map(make, abstract)


def _random(abstract, key):
  if jnp.issubdtype(abstract.dtype, jnp.floating):
    return jax.random.normal(key, abstract.shape, abstract.dtype)
  return jnp.zeros(abstract.shape, abstract.dtype)


def _seconds(step, state):
  started = time.perf_counter()
  jax.block_until_ready(step(state))
  return time.perf_counter() - started


def _local_bytes(state) -> int:
  """Bytes of the shards that this process writes."""
  return sum(
    shard.data.nbytes
    for a in jax.tree.leaves(state)
    for shard in a.addressable_shards
    if shard.replica_id == 0
  )


class _Memory:
  """Watches the anonymous memory of this process while entered.

  Attributes:
    grown: by how many bytes it grew at most.
  """

  def __enter__(self):
    self._over = threading.Event()
    self._first, self.grown = _private_bytes(), 0
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *error):
    self._over.set()
    self._thread.join()

  def _watch(self):
    while not self._over.wait(_TICK):
      self.grown = max(self.grown, _private_bytes() - self._first)


def _private_bytes() -> int:
  with open('/proc/self/status') as file:
    for line in file:
      if line.startswith('RssAnon:'):
        return int(line.split()[1]) * 1024
  raise OutputError('/proc/self/status has no RssAnon: this needs Linux.')
