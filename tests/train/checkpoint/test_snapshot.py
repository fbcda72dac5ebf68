"""A copy of the state, always in the same memory."""

import chex
import jax
import jax.numpy as jnp

from pixeldit_jax.train.checkpoint.snapshot import Snapshot


def pointers(tree):
  return [
    shard.data.unsafe_buffer_pointer()
    for a in jax.tree.leaves(tree)
    for shard in a.addressable_shards
  ]


def test_it_takes_its_memory_once(monkeypatch):
  states = [
    dict(a=jnp.full((64, 64), float(i)), b=jnp.int32(i)) for i in (1, 2)
  ]
  snapshot = Snapshot()
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
