"""What each network of the family is trained towards, in the training step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.convert.official import (
  from_official,
  rename_to_official,
)
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.repa import StoredFeatures
from pixeldit_jax.train.state import init_state, join
from pixeldit_jax.train.step import (
  TrainingInputs,
  make_gradients,
  make_train_step,
  sample_training_inputs,
)

# Of the public training steps: the file, a part of it, what is not in weights.
STEPS = {
  'deco': ('deco', 'train', {}, dict(frequency_weight=1.0)),
  'pixnerd': ('pixnerd', 'train', {}, {}),
  'flatdit': ('flatdit', 'train/vpred', {}, {}),
  'flatdit of images': ('flatdit', 'train/xpred', dict(prediction='image'), {}),
  'jit': ('jit', 'train', dict(context_start=2), {}),
}
# Ours by the names of the public losses.
LOSSES = dict(loss='fm_loss', frequency='freq_loss', repa='cos_loss')


def nhwc(array):
  return jnp.asarray(np.moveaxis(array, 1, -1))


def public_projector(weights):
  """REPA's, of the width that the public code has."""
  return {
    name: dict(
      kernel=jnp.asarray(weights[f'0.{i}.weight'].T),
      bias=jnp.asarray(weights[f'0.{i}.bias']),
    )
    for name, i in (('first', 0), ('second', 2), ('third', 4))
  }


@pytest.mark.slow
@pytest.mark.parametrize('case', STEPS)
def test_losses_and_gradients_are_the_public_codes(golden, assert_close, case):
  family, part, fields, flow = STEPS[case]
  arrays = golden(f'rivals/{family}')
  model = from_official(arrays.below('w'), family, scan=False, **fields)
  config = get_config()
  shapes = dataclasses.asdict(model.config)  # adapters have keys of their own
  config.model.update({k: v for k, v in shapes.items() if k in config.model})
  config.data.update(resolution=16, batch_size=8)
  config.flow.update(flow)
  trained, target, teacher = weights_of(model), None, None
  if aligned := 'train/teacher' in arrays.arrays:
    config.repa.update(weight=0.5, block=2, teacher='features')
    trained = join(trained, public_projector(arrays.below('w_proj')))
    teacher = jnp.asarray(arrays['train/teacher'])
    target = StoredFeatures(width=20, grid=(4, 4))
  inputs = TrainingInputs(
    data=nhwc(arrays['train/x']),
    noise=nhwc(arrays['train/noise']),
    t=jnp.asarray(arrays['train/t']),
    condition=jnp.asarray(arrays['train/y'], jnp.int32),
    teacher_features=teacher,
  )
  gradients = jax.jit(make_gradients(RunContext.build(config), target))
  losses, found = gradients(trained, inputs)
  expected = arrays.below(part)
  if not aligned:
    expected['fm_loss'] = expected['loss']
  for name, loss in losses.items():
    assert float(loss) == pytest.approx(float(expected[LOSSES[name]]), rel=1e-5)
  found.pop('repa_projector', None)
  theirs = rename_to_official(found, model.config)
  named = arrays.below(f'{part}/grad')
  assert named
  for name, gradient in named.items():
    assert_close(theirs[name], gradient)


def tiny(family, **more):
  config = get_config()
  config.model.update(preset(family))
  make_debug(config)
  config.update_from_flattened_dict(more)
  return config


def batch(size=8):
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (size, 28, 28, 3), np.uint8),
    label=rng.integers(0, 10, size).astype(np.int32),
  )


def test_noise_and_times_are_scaled_as_asked():
  plain = tiny('jit')
  scaled = tiny('jit', **{'flow.noise_scale': 2.0, 'flow.time_mean': -0.8})
  key = jax.random.key(3)
  first, second = (
    sample_training_inputs(key, batch(), config) for config in (plain, scaled)
  )
  np.testing.assert_array_equal(second.noise, 2 * first.noise)
  logit = lambda t: jnp.log(t / (1 - t))  # noqa: E731
  np.testing.assert_allclose(
    logit(second.t), logit(first.t) - 0.8, rtol=1e-4, atol=1e-4
  )


def gradients_of(config):
  context = RunContext.build(config)
  tx = make_optimizer(context)
  weights = jax.jit(lambda: init_state(context.model, tx, 0).weights)()
  weights = jax.tree.map(
    lambda a: a + 0.05 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), weights
  )
  inputs = sample_training_inputs(jax.random.key(1), batch(), config)
  return inputs, jax.jit(make_gradients(context))(weights, inputs)


@pytest.mark.slow
def test_dropout_is_drawn_by_example_and_changes_no_other_draw(assert_close):
  rate = {'model.dropout': 0.3, 'model.patch_depth': 4}
  config = tiny('jit', **rate)
  inputs, (losses, gradient) = gradients_of(config)
  assert inputs.dropout.shape == (8,)
  config.optimizer.accumulate = 2
  _, (in_parts, gradient_of_parts) = gradients_of(config)
  assert_close(in_parts['loss'], losses['loss'], 1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b), gradient_of_parts, gradient)
  config = tiny('jit', **rate | {'model.dropout': 0.0})
  again, (without, _) = gradients_of(config)
  assert again.dropout is None
  np.testing.assert_array_equal(again.noise, inputs.noise)
  assert abs(float(without['loss']) - float(losses['loss'])) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('family', ['pixeldit', 'jit'])
def test_the_frequency_loss_goes_with_any_network(family):
  config = tiny(family, **{'flow.frequency_weight': 1.0})
  context = RunContext.build(config)
  tx = make_optimizer(context)
  state = jax.jit(lambda: init_state(context.model, tx, 0))()
  state, metrics = jax.jit(make_train_step(context, tx))(state, batch())
  assert 0 < float(metrics['frequency']) and int(metrics['bad_steps']) == 0


def test_a_loss_of_colours_is_refused_without_them():
  config = tiny('deco', **{'flow.frequency_weight': 1.0})
  validate(config)
  config.model.in_channels = 1
  with pytest.raises(ValueError) as error:
    validate(config)
  told = str(error.value)
  assert 'frequency_weight=1.0 with model.in_channels=1' in told
  assert '\n' not in told
