"""PixelFlow's whole samples, as its public code draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import Stages, next_stage
from pixeldit_jax.samplers.dopri5 import dopri5
from pixeldit_jax.samplers.stages import sample_stages, stage_velocity


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def branches(golden, name):
  arrays = golden('rivals/pixelflow')
  model = from_official(arrays.below('w'), 'pixelflow', heads=2)
  y = jnp.asarray(arrays[f'{name}/y'], jnp.int32)
  null = jnp.full_like(y, model.config.num_classes)
  return arrays, [lambda x, T, y=y: model(x, T, y) for y in (y, null)]


@pytest.mark.slow
def test_every_stage_is_the_public_codes(golden, assert_close):
  arrays, functions = branches(golden, 'sample')
  run, a = arrays.meta['sample'], arrays.below('sample')
  noise = [nhwc(a['init_noise'])]
  noise += [nhwc(a[f'stage{i}_block_noise']) for i in (1, 2, 3)]

  @jax.jit
  def draw(noise):
    more = dict(stages=Stages(), scale=run['cfg'], steps=run['steps'])
    return sample_stages(*functions, noise, **more)

  for i, (start, end) in enumerate(draw(noise)):
    assert_close(start, nhwc(a[f'stage{i}_start']))
    assert_close(end, nhwc(a[f'stage{i}_end']))
  assert_close(end, nhwc(a['latent_out']))


@pytest.mark.slow
@pytest.mark.parametrize('stage', [0, 1])
def test_dopri5_is_near_the_exact_flow(golden, assert_close, stage):
  """Of a random network: theirs is 6e-2 away, with its tolerances."""
  arrays, functions = branches(golden, 'dopri5')
  a, tight = arrays.below('dopri5'), arrays.below('dopri5_tight')
  stages = Stages()
  x = nhwc(a['init_noise'])
  if stage:
    noise = nhwc(a[f'stage{stage}_block_noise'])
    x = next_stage(stages, stage, nhwc(tight[f'stage{stage - 1}_end']), noise)
  scale = arrays.meta['sample']['cfg']
  velocity = stage_velocity(*functions, stages, stage, scale)
  end, count = jax.jit(lambda x: dopri5(velocity, x, rtol=1e-5))(x)
  assert_close(end, nhwc(tight[f'stage{stage}_end']), 1e-2)
  assert 6 < count < 2000


def test_dopri5_solves_an_equation_to_its_tolerance():
  """dx/dt = x cos(4 t): x exp(sin(4) / 4) at 1."""
  x = jnp.ones((1, 2, 2, 1))
  errors = []
  for rtol in (1e-2, 1e-5):
    end, _ = dopri5(lambda x, t: x * jnp.cos(4 * t), x, rtol=rtol)
    errors.append(abs(float(end[0, 0, 0, 0]) - np.exp(np.sin(4) / 4)))
  assert errors[0] < 1e-2 and errors[1] < 1e-5


def test_what_does_not_fit_the_stages_is_told():
  nothing = lambda x, T: x  # noqa: E731
  noise = [jnp.zeros((1, 4, 4, 1))]
  with pytest.raises(UserError, match="solver='heun' in stages"):
    sample_stages(
      nothing, nothing, noise, stages=Stages(1), scale=1, solver='heun'
    )
  with pytest.raises(UserError, match='1 numbers of steps and 1 of noise for'):
    sample_stages(nothing, nothing, noise, stages=Stages(4), scale=1, steps=[2])
