"""DiT and PixelFlow as runs: their losses, their samplers, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.convert.official import from_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import Stages
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import make_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import (
  num_function_evaluations,
  sampling_flops,
)
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state
from pixeldit_jax.train.step import (
  TrainingInputs,
  make_gradients,
  make_train_step,
  sample_training_inputs,
)

SOLVER = dict(dit='ddpm', pixelflow='euler')


def tiny(family, **more):
  config = get_config()
  config.model.update(preset(family))
  make_debug(config)
  config.model.scan = False
  config.sampler.update(solver=SOLVER[family], guidance=2.0, steps=3)
  config.update_from_flattened_dict(more)
  return config


def batch(size=8):
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (size, 28, 28, 3), np.uint8),
    label=rng.integers(0, 10, size).astype(np.int32),
  )


def random_weights(context):
  """All of them have an effect."""
  weights = weights_of(make_model(context.model, nnx.Rngs(0)))
  return jax.tree.map(
    lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), weights
  )


@pytest.mark.slow
def test_dits_loss_is_the_public_codes(golden):
  arrays = golden('rivals/dit')
  train = arrays.below('train')
  model = from_official(arrays.below('w'), 'dit', num_heads=2)
  config = get_config()
  fields = {k: getattr(model.config, k) for k in config.model}
  config.model.update(fields)
  config.data.resolution = train['x'].shape[-1]
  data, noise = (np.moveaxis(train[k], 1, -1) for k in ('x', 'noise'))
  inputs = TrainingInputs(
    jnp.asarray(data),
    jnp.asarray(noise),
    jnp.asarray(train['t'], jnp.float32),
    jnp.asarray(train['y'], jnp.int32),
  )
  gradients = make_gradients(RunContext.build(config, jax.devices()[:1]))
  losses, _ = jax.jit(gradients)(weights_of(model), inputs)
  for name in ('loss', 'mse', 'vb'):
    expected = np.mean(train[name])
    assert float(losses[name]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_each_stage_has_its_share_and_its_noise():
  """A network that gives 0, and no picture: the noise alone is to be moved."""
  config = tiny('pixelflow', **{'data.batch_size': 64})
  context = RunContext.build(config, jax.devices()[:1])
  inputs = sample_training_inputs(jax.random.key(1), batch(64), config)
  assert set(np.unique(np.asarray(inputs.t * 1000).round())) <= set(range(1000))
  inputs = inputs._replace(data=0 * inputs.data)
  weights = init_state(context.model, make_optimizer(context), 0).weights
  losses, _ = jax.jit(make_gradients(context))(weights, inputs)
  stages = Stages(2)
  for k, (start, end) in enumerate(zip(stages.starts, stages.ends)):
    found = float(losses[f'stage_{k}'])
    assert found == pytest.approx((end - start) ** 2, rel=0.05)
  mean = (losses['stage_0'] + losses['stage_1']) / 2
  assert float(losses['loss']) == pytest.approx(float(mean))


@pytest.mark.slow
@pytest.mark.parametrize('family', ['dit', 'pixelflow'])
def test_a_step_is_the_same_on_any_devices(family, assert_close):
  found = []
  for devices in (jax.devices(), jax.devices()[:1]):
    config = tiny(family, **{'data.batch_size': 16, 'mesh.fsdp': len(devices)})
    config.mesh.data = 1
    context = RunContext.build(config, devices)
    tx = make_optimizer(context)
    with context.use():
      state = jax.jit(lambda c=context, t=tx: init_state(c.model, t, 0))()
      step = jax.jit(make_train_step(context, tx))
      _, metrics = step(state, batch(16))
    found.append(jax.device_get(metrics))
    assert int(metrics['bad_steps']) == 0
  for name in ('loss', 'gradient_norm'):
    assert_close(found[0][name], found[1][name], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  'family, solver', [('dit', 'ddpm'), ('dit', 'ddim'), ('pixelflow', 'euler')]
)
def test_an_image_depends_on_the_seed_and_its_number_alone(family, solver):
  config = tiny(family, **{'sampler.solver': solver})
  context = RunContext.build(config, jax.devices()[:1])
  weights = random_weights(context)
  labels, order = np.arange(4, dtype=np.int32), np.array([2, 0, 3, 1])
  sampler = Sampler(context, batch_size=4)
  (first,) = sampler.sample(weights, np.arange(4), labels)
  (second,) = sampler.sample(weights, order, labels[order])
  np.testing.assert_array_equal(first[order], second)
  assert first.shape == (4, 28, 28, 3) and first.std() > 1
  *_, last = sampler.sample_by_steps(weights, np.arange(4), labels)
  assert last.number == last.steps == (3 if family == 'dit' else 1)
  near = np.abs(last.images.astype(int) - first)
  assert near.max() <= 1
  other = sampler.numbers(guidance=1.5)
  (third,) = sampler.sample(weights, np.arange(4), labels, numbers=other)
  assert (third != first).any()


def test_a_trajectory_of_stages_is_refused():
  context = RunContext.build(tiny('pixelflow'), jax.devices()[:1])
  with pytest.raises(UserError, match='states have several sizes'):
    Sampler(context, return_trajectory=True)


@pytest.mark.slow
def test_dopri5_draws():
  config = tiny('pixelflow', **{'sampler.solver': 'dopri5'})
  context = RunContext.build(config, jax.devices()[:1])
  weights = jax.tree.map(lambda a: 0.1 * a, random_weights(context))
  sampler = Sampler(context, batch_size=2)
  (images,) = sampler.sample(weights, np.arange(2), np.arange(2))
  assert images.shape == (2, 28, 28, 3) and images.std() > 1


def test_evaluations_and_operations_are_counted():
  config = tiny('dit')
  assert num_function_evaluations(config) == 6
  config.sampler.guidance = 1.0
  assert num_function_evaluations(config) == 3
  config = tiny('pixelflow')
  assert num_function_evaluations(config) == 3 + 6  # the first is not guided
  context = RunContext.build(config, jax.devices()[:1])
  small, config.sampler.guidance = sampling_flops(config, context.model), 1.0
  assert 1.5 < small / sampling_flops(config, context.model) < 2


@pytest.mark.parametrize(
  'family, change, told',
  [
    ('dit', {'model.variance': False}, 'variance=False'),
    ('dit', {'flow.noise_scale': 2.0}, 'flow.noise_scale=2.0'),
    ('dit', {'data.held_out': 8}, 'data.held_out=8'),
    ('pixelflow', {'flow.frequency_weight': 1.0}, 'its own alone'),
    ('pixelflow', {'flow.stages': 4}, '28 x 28 in 4 stages'),
    ('pixelflow', {'model.patch_size': 28}, 'into patches'),
    ('pixelflow', {'data.batch_size': 9}, 'flow.stages=2'),
  ],
)
def test_what_they_do_not_go_with_is_one_line(family, change, told):
  validate(tiny(family))
  with pytest.raises(UserError) as error:
    validate(tiny(family, **change))
  assert told in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  'family, sampler, told',
  [
    ('dit', dict(solver='euler'), 'use ddpm or ddim'),
    ('dit', dict(steps=1001), 'keep fewer'),
    ('dit', dict(reuse_patch_tokens=2), 'no pixel path'),
    ('pixelflow', dict(solver='ddpm'), 'use euler or dopri5'),
  ],
)
def test_a_solver_of_another_network_is_refused(family, sampler, told):
  config = tiny(family)
  config.sampler.update(sampler)
  with pytest.raises(UserError, match=told):
    Sampler(RunContext.build(config, jax.devices()[:1]))
