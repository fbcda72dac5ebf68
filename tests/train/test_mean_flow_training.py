"""Runs towards average velocities: derivative, start, steps and samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.config import get_config, validate
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.loss import flow_matching_loss
from pixeldit_jax.flow.mean_flow import draw_mean_flow, mean_flow_loss
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import make_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import num_function_evaluations
from pixeldit_jax.samplers.mean_flow import average_of
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state
from pixeldit_jax.train.step import make_train_step

TINY = dict(
  num_classes=10, patch_size=4, width=32, heads=2, patch_depth=2, scan=False
)
NETWORKS = {
  'pixeldit': dict(pixel_width=8, pixel_depth=1),
  'deco': dict(pixel_width=8, pixel_depth=1),
  'pixnerd': dict(pixel_width=8, pixel_depth=1),
  'flatdit': {},
  'jit': dict(bottleneck=8, context_tokens=2, context_start=1),
  'pmf': dict(bottleneck=8, branch_depth=1, position_grid=2),
}


def network(family, **more):
  """A small random network, every weight of which has an effect."""
  told = {} if family == 'pmf' else dict(mean_flow='added')
  fields = preset(family) | TINY | NETWORKS[family] | told | more
  model = make_model(ModelConfig(**fields), nnx.Rngs(0))
  leaves, treedef = jax.tree.flatten(weights_of(model))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    a + 0.1 * jax.random.normal(key, a.shape) for a, key in zip(leaves, keys)
  ]
  return nnx.merge(nnx.graphdef(model), treedef.unflatten(leaves))


def batch(count=2):
  keys = jax.random.split(jax.random.key(2), 3)
  data, noise = (jax.random.normal(k, (count, 8, 8, 3)) for k in keys[:2])
  return data, noise, draw_mean_flow(keys[2], count), jnp.arange(count)


@pytest.mark.slow
@pytest.mark.parametrize(
  'family, more',
  [(family, {}) for family in NETWORKS]
  + [
    ('pixeldit', dict(pixel_attention='full', attention='plain')),
    ('pixeldit', dict(pixel_attention='channel', attention='plain')),
    ('pixeldit', dict(scan=True, patch_remat='full', pixel_remat='matmuls')),
  ],
)
def test_the_derivative_is_that_of_finite_differences(family, more):
  average = average_of(network(family, **more))
  data, noise, draws, y = batch()
  s = jnp.array([0.3, 0.6])
  q = jnp.array([0.8, 0.9])
  x, v = interpolate(data, noise, s), data - noise

  @jax.jit
  def f(x, s):
    return average(x, s, q, y, draws.omega, draws.low, draws.high)[0]

  _, found = jax.jvp(f, (x, s), (v, jnp.ones_like(s)))
  e = 2e-3
  expected = (f(x + e * v, s + e) - f(x - e * v, s - e)) / (2 * e)
  error = jnp.abs(found - expected).max() / jnp.abs(expected).max()
  assert error < 1e-2  # e^2, and what float32 leaves of a difference


@pytest.mark.slow
def test_where_both_times_are_equal_it_is_flow_matching():
  average = average_of(network('pixeldit'))
  data, noise, draws, y = batch()
  s = jnp.array([0.2, 0.7])
  one = jnp.ones_like(s)
  draws = draws._replace(s=s, q=s, omega=one, dropped=s > 1)
  _, parts = mean_flow_loss(average, data, noise, draws, y, 10)
  x = interpolate(data, noise, s)
  v, _ = average(x, s, s, y, one, draws.low, draws.high)
  expected = flow_matching_loss(v, data - noise)
  np.testing.assert_allclose(parts['loss'], expected, rtol=1e-5)


def config_of(**model):
  config = get_config()
  config.steps = 10
  config.objective = 'mean_flow'
  config.model.update(TINY | NETWORKS['pixeldit'] | dict(mean_flow='added'))
  config.model.update(model)
  config.data.update(resolution=8, batch_size=8)
  config.sampler.update(solver='jump', steps=2, batch_size=8)
  return config


def trained_step(config, devices=1):
  context = RunContext.build(config, jax.devices()[:devices])
  tx = make_optimizer(context)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, 8, 8, 3), np.uint8)
  data = dict(image=images, label=np.arange(8, dtype=np.int32))
  with context.use():
    state = init_state(context.model, tx, 0)
    state, metrics = jax.jit(make_train_step(context, tx))(state, data)
  return context, state, jax.tree.map(float, metrics)


@pytest.mark.slow
def test_a_step_is_the_same_on_any_devices_and_by_parts():
  _, _, metrics = trained_step(config_of())
  assert {'loss', 'weighted', 'gradient_norm'} <= metrics.keys()
  parts = config_of()
  parts.optimizer.accumulate = 2
  sharded = config_of()
  sharded.mesh.update(data=1, fsdp=2, tensor=2)
  for config, devices in ((parts, 1), (sharded, 4)):
    _, _, other = trained_step(config, devices)
    for name in ('loss', 'weighted', 'gradient_norm'):
      np.testing.assert_allclose(other[name], metrics[name], rtol=1e-4)


@pytest.mark.parametrize('family', ['pixeldit', 'pmf'])
def test_images_are_drawn_in_as_many_evaluations_as_steps(family):
  more = {} if family == 'pixeldit' else preset('pmf') | NETWORKS['pmf']
  config = config_of(**more)
  context = RunContext.build(config, jax.devices()[:1])
  sampler = Sampler(context)
  weights = weights_of(network(family))
  indices = np.arange(8)
  (images,) = sampler.sample(weights, indices, indices)
  assert images.shape == (8, 8, 8, 3)
  assert num_function_evaluations(config) == 2
  config.sampler.guidance = 1.5
  other = Sampler(RunContext.build(config, jax.devices()[:1]))
  (others,) = other.sample(weights, indices, indices)
  assert np.abs(images.astype(int) - others).max() > 1  # told of the scale


@pytest.mark.parametrize(
  'change, told',
  [
    (lambda c: c.model.update(mean_flow='none'), "objective='mean_flow' with"),
    (
      lambda c: (
        c.update(objective='flow_matching'),
        c.model.update(mean_flow='none'),
      ),
      "sampler.solver='jump' with model.mean_flow='none'",
    ),
    (lambda c: c.repa.update(weight=0.5, teacher='x'), 'without teacher'),
    (lambda c: c.model.update(branch_depth=1), 'with tokens between 1 and'),
    (
      lambda c: (
        c.update(objective='flow_matching'),
        c.model.update(preset('pmf') | NETWORKS['pmf']),
      ),
      "pMF is trained by objective='mean_flow'",
    ),
  ],
)
def test_what_does_not_go_together_is_told(change, told):
  config = config_of()
  change(config)
  with pytest.raises(UserError, match=told) as error:
    validate(config)
  assert '\n' not in str(error.value)


@pytest.mark.slow
def test_the_log_says_that_attention_is_replaced(caplog):
  model = dataclasses.replace(RunContext.build(config_of()).model)
  assert model.attention == 'auto'
  with caplog.at_level('INFO'):
    trained_step(config_of())
  assert 'plain attention where the forward derivative' in caplog.text
