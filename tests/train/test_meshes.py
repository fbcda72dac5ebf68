"""Three steps of training on any mesh are those of one device."""

import functools

import jax
import numpy as np
import pytest

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import abstract_state, init_state, state_shardings
from pixeldit_jax.train.step import make_train_step

STEPS, SIDE, BATCH = 3, 16, 8


def run_config(mesh=None, rules=None, **model):
  """A network whose every axis divides over eight devices."""
  config = get_config()
  config.model.update(
    num_classes=10,
    patch_size=4,
    width=96,
    heads=8,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=1,
  )
  config.model.update(model)
  config.data.update(resolution=SIDE, batch_size=BATCH)
  # By default Adam makes whole steps of gradients of 1e-7, which are rounding.
  config.optimizer.update(learning_rate=1e-3, eps=1e-3)
  config.mesh.update(data=1)
  config.mesh.update(mesh or {})
  config.mesh.rules.update(rules or {})
  return config


def batches():
  rng = np.random.default_rng(0)
  return [
    dict(
      image=rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8),
      label=rng.integers(0, 10, BATCH).astype(np.int32),
    )
    for _ in range(STEPS)
  ]


@functools.cache
def start(**model):
  """A state on the host in which nothing is zero by initialisation."""
  context = RunContext.build(run_config(**model), jax.devices()[:1])
  make = functools.partial(
    init_state, context.model, make_optimizer(context), 0
  )
  state = jax.device_get(jax.jit(make)())
  rng = np.random.default_rng(1)
  weights = jax.tree.map(
    lambda w: w + 0.1 * rng.standard_normal(w.shape, np.float32), state.weights
  )
  return state.replace(weights=weights, ema=jax.tree.map(np.copy, weights))


def train(config, devices, **model):
  """State after, and losses and gradient norms of, some steps on devices."""
  context = RunContext.build(config, jax.devices()[:devices])
  tx = make_optimizer(context)
  shardings = state_shardings(context.model, tx, context.mesh, context.rules)
  abstract_state(context.model, tx, shardings)  # all axes divide
  state = jax.device_put(start(**model), shardings)
  found = []
  with context.use():
    step = jax.jit(
      make_train_step(context, tx),
      out_shardings=(shardings, sharding.replicated(context.mesh)),
      donate_argnums=0,
    )
    for batch in batches():
      batch = sharding.put_batch(batch, context.batch_sharding)
      state, metrics = step(state, batch)
      found.append([metrics['loss'], metrics['gradient_norm']])
  return jax.device_get(state), np.asarray(jax.device_get(found))


@functools.cache
def unsharded(**model):
  return train(run_config(**model), 1, **model)


def assert_equal_to_unsharded(mesh, rules=None, **model):
  """Losses, gradients (in Adam's moments), weights and EMA, within 1e-5."""
  state, metrics = train(run_config(mesh, rules, **model), 8, **model)
  expected, expected_metrics = unsharded(**model)
  np.testing.assert_allclose(metrics, expected_metrics, rtol=1e-5)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5),
    state,
    expected,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'mesh',
  [
    dict(data=8),
    dict(fsdp=8),
    dict(sequence=8),
    dict(tensor=8),
    dict(data=2, fsdp=4),
    dict(fsdp=2, sequence=2, tensor=2),
    dict(data=2, fsdp=2, tensor=2),
    dict(data=2, sequence=2, tensor=2),
  ],
  ids=str,
)
def test_every_mesh_is_one_device(mesh):
  assert_equal_to_unsharded(mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
  'mesh', [dict(sequence=8), dict(fsdp=2, sequence=2, tensor=2)], ids=str
)
def test_channel_compaction_on_a_mesh_is_one_device(mesh):
  assert_equal_to_unsharded(mesh, pixel_attention='channel')


@pytest.mark.slow
def test_other_rules_are_one_device():
  rules = dict(batch='data', embed='fsdp,tensor', mlp='', heads='', pixels='')
  mesh = dict(data=2, fsdp=2, tensor=2)
  assert_equal_to_unsharded(mesh, rules)


@pytest.mark.slow
def test_no_device_ever_holds_a_whole_large_weight():
  """The state starts sharded, moments and average too."""
  config = run_config(dict(fsdp=8), width=384, num_classes=1000)
  context = RunContext.build(config)
  model, tx = context.model, make_optimizer(context)
  shardings = state_shardings(model, tx, context.mesh)
  init = jax.jit(lambda: init_state(model, tx, 0), out_shardings=shardings)
  compiled = init.lower().compile()
  like = abstract_state(model, tx, shardings)
  large = [a for a in jax.tree.leaves(like) if a.size >= 2**16]
  assert len(large) > 4 * 8  # weights, average and two moments
  for a in large:
    assert np.prod(a.sharding.shard_shape(a.shape)) * 8 == a.size
  largest = max(a.size * 4 for a in large)
  assert compiled.memory_analysis().temp_size_in_bytes < largest
  whole = {f'f32[{",".join(map(str, a.shape))}]' for a in large}
  text = compiled.as_text()
  assert not [shape for shape in whole if shape in text]
