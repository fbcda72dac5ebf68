"""How long a checkpoint holds the loop, how long it is written, in what memory.

The state of a configuration is saved twice as in training, the second time in
memory that the first has taken from the system. Steps that go on meanwhile are
stand-ins, which read all of the EMA and change nothing.
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
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.errors import OutputError
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.checkpoint.folders import folder_of
from pixeldit_jax.train.checkpoint.manager import Checkpoints
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import TrainState, abstract_state, state_shardings
from pixeldit_jax.typing import PyTree

_TICK = 0.02  # seconds between two looks at the memory


def measure_checkpoint(
  config: ConfigDict, steps: int, folder: str | None = None
) -> dict[str, float | str]:
  """Saves the state of a run twice, while steps go on.

  On a CPU, whose memory is the host's, all arrays of the state lie in that of
  the largest (`lent`): as those of an accelerator they take none of the host's.

  Args:
    config: of the run.
    steps: that are timed with nothing being written.
    folder: where to write for the while; the system's own by default.

  Returns:
    Of the second save, 'held_seconds' that the loop waited, 'written_seconds'
    until it was committed, and the first over the second. And
    'host_memory_over_state': the most that this process ever held beyond what
    it held before, over the bytes that it wrote.
  """
  validate(config)
  state = _make_state(config)
  step = jax.jit(
    lambda state: sum(jnp.sum(jnp.abs(a)) for a in jax.tree.leaves(state.ema))
  )
  _seconds(step, state)
  alone = [_seconds(step, state) for _ in range(steps)]
  data = iter(grain.MapDataset.range(1).to_iter_dataset())
  with (
    tempfile.TemporaryDirectory(dir=folder) as workdir,
    contextlib.closing(Checkpoints(workdir, config, {})) as checkpoints,
    _Memory() as memory,
  ):
    first, *_ = _save(checkpoints, state, data, step, 1)
    held, written, beside = _save(checkpoints, state, data, step, 2)
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
    steps_while_writing=len(beside),
    step_seconds_while_writing=statistics.median(beside),
    step_seconds_alone=statistics.median(alone),
    host_gigabytes=memory.grown / 1e9,
    host_memory_over_state=memory.grown / _local_bytes(state),
  )


def _save(checkpoints, state, data, step, number):
  """Seconds held, seconds until the commit, seconds of each step meanwhile."""
  one = jax.device_put(jnp.int32(number), state.step.sharding)
  state = state.replace(step=one)
  started = time.perf_counter()
  checkpoints.save(state, data, {})
  held = time.perf_counter() - started
  beside = []
  while checkpoints.newest != number:
    beside.append(_seconds(step, state))
    checkpoints.poll()
  return held, time.perf_counter() - started, beside


def _make_state(config: ConfigDict) -> TrainState:
  """Random numbers, placed as in training: zeros might be written quicker."""
  model, tx = model_config(config), make_optimizer(config)
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  shardings = state_shardings(model, tx, mesh, rules)
  like = abstract_state(model, tx, shardings)
  if jax.default_backend() == 'cpu':
    return lent(like)

  def make():
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(like)))
    keys = jax.tree.unflatten(jax.tree.structure(like), list(keys))
    return jax.tree.map(_random, like, keys)

  return jax.jit(make, out_shardings=shardings)()


def lent(like: PyTree) -> PyTree:
  """Arrays on a CPU that all lie on the same random numbers; counters are 0.

  Args:
    like: shapes, types and shardings; floats are of 32 bits.
  """

  def shape(a):
    return a.sharding.shard_shape(a.shape)

  floats = [a for a in jax.tree.leaves(like) if a.dtype == jnp.float32]
  count = max((math.prod(shape(a)) for a in floats), default=0)
  # XLA takes memory as it is from a multiple of 64 on, else it copies.
  memory = np.empty(4 * count + 64, np.uint8)
  start = -memory.ctypes.data % 64
  numbers = memory[start : start + 4 * count].view(np.float32)
  np.random.default_rng(0).standard_normal(dtype=np.float32, out=numbers)

  def make(a):
    shard = np.zeros(shape(a), a.dtype)
    if a.dtype == jnp.float32:
      shard = numbers[: shard.size].reshape(shard.shape)
    return jax.make_array_from_callback(a.shape, a.sharding, lambda _: shard)

  return jax.tree.map(make, like)


def _random(like, key):
  if jnp.issubdtype(like.dtype, jnp.floating):
    return jax.random.normal(key, like.shape, like.dtype)
  return jnp.zeros(like.shape, like.dtype)


def _seconds(step, state):
  started = time.perf_counter()
  jax.block_until_ready(step(state))
  return time.perf_counter() - started


def _local_bytes(state) -> int:
  """Of the shards that this process writes."""
  return sum(
    shard.data.nbytes
    for a in jax.tree.leaves(state)
    for shard in a.addressable_shards
    if shard.replica_id == 0
  )


class _Memory:
  """The memory of this process that no file backs, while entered.

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
  raise OutputError('/proc/self/status tells no RssAnon: this needs Linux.')
