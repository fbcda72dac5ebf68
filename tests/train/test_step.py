"""The training step against five steps of the authors' code."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pixeldit_jax.config import get_config
from pixeldit_jax.convert.official import (
  from_official,
  rename_to_official,
)
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import state as train_state
from pixeldit_jax.train.optim.optimizer import make_optimizer, make_schedule
from pixeldit_jax.train.state import TrainState, init_state
from pixeldit_jax.train.step import (
  TrainingInputs,
  make_gradients,
  make_train_step,
  make_update,
  sample_training_inputs,
)


def small_config(**model):
  """A run of a network of seconds."""
  config = get_config()
  config.steps = 10
  config.model.update(
    num_classes=10,
    patch_size=4,
    width=32,
    heads=2,
    patch_depth=1,
    pixel_width=8,
    pixel_depth=1,
  )
  config.model.update(model)
  config.data.update(resolution=16, batch_size=8)
  return config


def jit_update(config):
  return jax.jit(make_update(config, make_optimizer(RunContext.build(config))))


def jit_train_step(config):
  context = RunContext.build(config)
  return jax.jit(make_train_step(context, make_optimizer(context)))


def images(batch=8, side=16):
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (batch, side, side, 3), np.uint8),
    label=rng.integers(0, 10, batch).astype(np.int32),
  )


@pytest.mark.slow
def test_five_steps_are_the_authors(golden, assert_close):
  arrays = golden('c2i_train')
  meta = arrays.meta
  model = from_official(arrays.below('w'))
  config = small_config()
  config.optimizer.update(
    learning_rate=meta['lr'], eps=meta['eps'], clip_norm=meta['clip_norm']
  )
  config.ema.update(decay=meta['ema_decay'], warmup=False)
  weights = weights_of(model)
  state = TrainState(
    step=jnp.int32(0),
    key=jnp.zeros(2, jnp.uint32),
    bad_steps=jnp.int32(0),
    weights=weights,
    ema=weights,
    opt_state=make_optimizer(RunContext.build(config)).init(weights),
  )
  gradients_fn = jax.jit(make_gradients(RunContext.build(config)))
  update = jit_update(config)
  for i in range(5):
    inputs = TrainingInputs(
      data=jnp.asarray(arrays['x'][i].transpose(0, 2, 3, 1)),
      noise=jnp.asarray(arrays['noise'][i].transpose(0, 2, 3, 1)),
      t=jnp.asarray(arrays['t'][i]),
      condition=jnp.asarray(arrays['y'][i], jnp.int32),
    )
    losses, gradients = gradients_fn(state.weights, inputs)
    if i == 0:
      named = rename_to_official(gradients, model.config)
      for name, expected in arrays.below('grad0').items():
        assert_close(named[name], expected)
    state, metrics = update(state, losses, gradients)
    assert float(metrics['loss']) == pytest.approx(arrays['loss'][i], rel=1e-4)
    norm = float(metrics['gradient_norm'])
    assert norm == pytest.approx(arrays['grad_norm'][i], rel=1e-4)
  for tree, prefix in ((state.weights, 'final'), (state.ema, 'ema')):
    named = rename_to_official(tree, model.config)
    for name, expected in arrays.below(prefix).items():
      assert_close(named[name], expected)


def fresh(config):
  context = RunContext.build(config)
  tx = make_optimizer(context)
  return jax.jit(lambda: init_state(context.model, tx, config.seed))()


@pytest.mark.slow
def test_accumulation_is_the_same_step_in_parts(assert_close):
  config = small_config()
  state, batch = fresh(config), images()
  whole, metrics = jit_train_step(config)(state, batch)
  config.optimizer.accumulate = 4
  parts, metrics_of_parts = jit_train_step(config)(state, batch)
  assert_close(metrics_of_parts['loss'], metrics['loss'], 1e-5)
  assert_close(
    metrics_of_parts['gradient_norm'], metrics['gradient_norm'], 1e-5
  )
  moments = [s.opt_state[1][0].mu['output']['proj'] for s in (parts, whole)]
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), *moments)


def test_each_step_draws_its_own_and_the_same_again():
  config = small_config()
  config.data.flip = True
  batch = images(64)
  first, again, other = (
    sample_training_inputs(jax.random.key(seed), batch, config)
    for seed in (1, 1, 2)
  )
  chex.assert_trees_all_equal(first, again)
  for name in ('noise', 't', 'condition', 'data'):
    drawn, another = getattr(first, name), getattr(other, name)
    assert bool((drawn != another).any())
  plain = np.asarray(batch['image']) / np.float32(127.5) - 1
  kept = np.isclose(first.data, plain, atol=1e-6).all((1, 2, 3))
  turned = np.isclose(first.data, plain[:, :, ::-1], atol=1e-6)
  assert 0 < kept.sum() < 64 and (kept | turned.all((1, 2, 3))).all()


@pytest.mark.parametrize('kind', ['dropout', 'latents', 'mean_flow'])
def test_no_key_of_a_step_is_given_out_twice(kind, monkeypatch):
  config, batch = small_config(dropout=0.1 * (kind == 'dropout')), images()
  config.data.flip = True
  if kind == 'mean_flow':
    config.objective = kind
  if kind == 'latents':
    config.latents.autoencoder = 'its weights'
    batch['image'] = jnp.ones((8, 2, 2, 16))
  given = []

  def recorded(make):
    def make_and_record(*args):
      keys = make(*args)
      given.extend(jax.random.key_data(keys).reshape(-1, 2).tolist())
      return keys

    return make_and_record

  for name in ('split', 'fold_in'):
    monkeypatch.setattr(jax.random, name, recorded(getattr(jax.random, name)))
  sample_training_inputs(jax.random.key(0), batch, config)
  assert len(given) > 4 and len(set(map(tuple, given))) == len(given)


def test_the_projector_has_a_key_that_the_network_does_not_draw(monkeypatch):
  keys = []

  def small(*args, rngs=None, **options):
    del options
    rngs = rngs or args[1]
    keys.append(rngs.params.key[...])
    return nnx.Linear(1, 1, rngs=rngs)

  monkeypatch.setattr(train_state, 'make_model', small)
  monkeypatch.setattr(train_state, 'REPAProjector', small)
  context = RunContext.build(small_config())
  init_state(context.model, optax.identity(), 3, teacher_width=2)
  network, projector = keys
  drawn = [jax.random.fold_in(network, i) for i in range(50)]
  assert not any(bool(projector == key) for key in (network, *drawn))


def test_a_step_that_is_not_finite_changes_only_the_counters():
  config = small_config()
  state = fresh(config)
  gradients = jax.tree.map(jnp.ones_like, state.weights)
  update = jit_update(config)
  for loss, norm in ((jnp.nan, 1.0), (1.0, jnp.inf)):
    bad = jax.tree.map(lambda g, norm=norm: g * norm, gradients)
    after, metrics = update(state, dict(loss=jnp.float32(loss)), bad)
    assert int(after.step) == 1 and int(metrics['bad_steps']) == 1
    for name in ('weights', 'ema', 'opt_state'):
      jax.tree.map(
        np.testing.assert_array_equal,
        getattr(after, name),
        getattr(state, name),
      )
  recovered, metrics = update(after, dict(loss=jnp.float32(1)), gradients)
  assert int(metrics['bad_steps']) == 0 and int(recovered.step) == 2


def test_ema_warms_up_and_follows():
  config = small_config()
  config.ema.decay = 0.9
  state = fresh(config)
  update = jit_update(config)
  gradients = jax.tree.map(jnp.ones_like, state.weights)
  after, _ = update(state, dict(loss=jnp.float32(1)), gradients)
  old, new = (s.weights['output']['proj']['bias'] for s in (state, after))
  np.testing.assert_allclose(
    after.ema['output']['proj']['bias'], 0.1 * old + 0.9 * new, rtol=1e-6
  )


@pytest.mark.parametrize('schedule', ['constant', 'cosine', 'linear'])
def test_schedules_warm_up_and_end_where_they_should(schedule):
  config = small_config()
  config.steps = 100
  config.optimizer.update(
    learning_rate=2.0,
    schedule=schedule,
    warmup_steps=10,
    final_learning_rate=0.5,
  )
  rate = make_schedule(config)
  assert float(rate(0)) == pytest.approx(0.2)
  assert float(rate(9)) == pytest.approx(2.0)
  end = 2.0 if schedule == 'constant' else 0.5
  assert float(rate(100)) == pytest.approx(end)


def test_a_constant_rate_drops_once():
  config = get_config()
  config.steps = 100
  config.optimizer.update(
    learning_rate=2.0, warmup_steps=10, drop_step=90, dropped_learning_rate=0.2
  )
  rate = make_schedule(config)
  found = [float(rate(step)) for step in (4, 9, 89, 90, 99)]
  np.testing.assert_allclose(found, [1.0, 2.0, 2.0, 0.2, 0.2], rtol=1e-6)


def test_weight_decay_spares_all_but_kernels():
  config = small_config()
  config.optimizer.update(weight_decay=1.0, learning_rate=0.1)
  state = fresh(config)
  zero = jax.tree.map(jnp.zeros_like, state.weights)
  losses = dict(loss=jnp.float32(1))
  after, _ = jit_update(config)(state, losses, zero)

  def check(path, new, old):
    scale = 0.9 if path[-1].key == 'kernel' else 1.0
    np.testing.assert_allclose(new, old * scale, rtol=1e-5)

  jax.tree_util.tree_map_with_path(check, after.weights, state.weights)
