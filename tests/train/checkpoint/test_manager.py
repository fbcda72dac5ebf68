"""States that are saved while steps go on, kept by rule, restored anywhere."""

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config
from pixeldit_jax.train.checkpoint.folders import steps_in
from pixeldit_jax.train.checkpoint.manager import Checkpoints, _Snapshot
from pixeldit_jax.train.state import TrainState

SIDE = 512  # of a matrix of 1 MiB, which is cut among devices


def make_state(step: int, mesh=None) -> TrainState:
  mesh = mesh or sharding.make_mesh(dict(fsdp=8))
  split = NamedSharding(mesh, PartitionSpec('fsdp'))
  everywhere = NamedSharding(mesh, PartitionSpec())

  def place(value, where):
    return jax.device_put(value, where)

  numbers = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
  return TrainState(
    step=place(jnp.int32(step), everywhere),
    key=place(jnp.uint32([1, 2]), everywhere),
    bad_steps=place(jnp.int32(0), everywhere),
    weights={'a': place(numbers + step, split)},
    ema={'a': place(numbers - step, everywhere)},
    opt_state=({'a': place(numbers * step, split)},),
  )


def make_data():
  return iter(grain.MapDataset.range(100).to_iter_dataset())


@pytest.fixture
def config():
  config = get_config()
  config.checkpoint.update(keep=1, keep_period=0)
  return config


def test_the_best_stays_with_the_newest_and_every_nth(tmp_path, config):
  config.checkpoint.update(keep_period=40, best='fid')
  fids, numbers = {10: 9.0, 20: 3.0, 30: 5.0, 40: 6.0, 50: 4.0, 60: 8.0}, {}
  checkpoints = Checkpoints(str(tmp_path), config.checkpoint)
  kept = {}
  for step, fid in fids.items():
    checkpoints.save(make_state(step), make_data(), {}, numbers)
    numbers[step] = dict(fid=fid)
    checkpoints.wait()
    kept[step] = steps_in(tmp_path / 'checkpoints')
  checkpoints.close()
  # What a save finds is judged; the newest one is, by the next.
  assert kept[30] == [20, 30] and kept[60] == [20, 40, 60]


def test_what_is_being_written_is_not_what_steps_overwrite(tmp_path, config):
  """And what was saved on eight devices is restored on four."""
  change = jax.jit(
    lambda state: jax.tree.map(lambda a: a + 1, state), donate_argnums=0
  )
  data = make_data()
  next(data)
  checkpoints = Checkpoints(str(tmp_path), config.checkpoint)
  for step in (1, 2):
    state = make_state(step)
    checkpoints.save(state, data, dict(seconds=step), {})
    for _ in range(3):
      state = change(state)
    checkpoints.wait()
  assert checkpoints.newest == checkpoints.last == 2
  checkpoints.close()
  again = Checkpoints(str(tmp_path), config.checkpoint)
  four = sharding.make_mesh(dict(fsdp=2, data=2), jax.devices()[:4])
  abstract, data = make_state(0, four), make_data()
  restored, run_counters = again.restore(abstract, data)
  again.close()
  chex.assert_trees_all_equal(restored, make_state(2))
  assert run_counters == dict(seconds=2) and next(data) == 1
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract)):
    assert a.sharding == b.sharding


def test_a_save_that_was_cut_short_does_not_count(tmp_path, config):
  checkpoints = Checkpoints(str(tmp_path), config.checkpoint)
  checkpoints.save(make_state(1), make_data(), {}, {})
  checkpoints.close()
  folder = tmp_path / 'checkpoints'
  cut = folder / '2.orbax-checkpoint-tmp'
  (cut / 'ema').mkdir(parents=True)
  assert steps_in(folder) == [1]
  again = Checkpoints(str(tmp_path), config.checkpoint)
  assert again.newest == 1
  again.save(make_state(2), make_data(), {}, {})
  again.close()
  assert again.newest == 2 and steps_in(folder) == [2]


def pointers(tree):
  return [
    shard.data.unsafe_buffer_pointer()
    for a in jax.tree.leaves(tree)
    for shard in a.addressable_shards
  ]


def test_a_copy_of_the_state_takes_its_memory_once(monkeypatch):
  states = [
    dict(a=jnp.full((64, 64), float(i)), b=jnp.int32(i)) for i in (1, 2)
  ]
  snapshot = _Snapshot()
  first = snapshot.take(states[0])
  chex.assert_trees_all_equal(first, states[0])
  places = pointers(first)
  assert not set(places) & set(pointers(states[0]))
  second = snapshot.take(states[1])
  chex.assert_trees_all_equal(second, states[1])
  assert pointers(second) == places and first['a'].is_deleted()
  # An accelerator's goes to the host as it is.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert snapshot.take(states[0]) is states[0]
