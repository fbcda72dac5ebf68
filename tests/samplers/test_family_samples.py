"""Whole trajectories of each paper's sampler, as its public code draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.flow.prediction import as_velocity
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide

# The golden file, its sampler, ours, the bounds of its interval, and whose time
# is tested for a slope at the end of a step.
SAMPLERS = [
  ('deco', 'euler', 'euler', 'upper', 'own'),
  ('deco', 'euler_shift_interval', 'euler', 'upper', 'own'),
  ('deco', 'heun', 'heun', 'upper', 'step'),
  ('deco', 'heun_reuse', 'heun_reuse', 'upper', 'step'),
  ('deco', 'adam2', 'adams2', 'open', 'own'),
  ('deco', 'adam3', 'adams3', 'open', 'own'),
  ('pixnerd', 'euler', 'euler', 'open', 'own'),
  ('pixnerd', 'adam2', 'adams2', 'open', 'own'),
  ('flatdit', 'euler', 'euler', 'upper', 'own'),
  ('flatdit', 'euler_xpred', 'euler', 'upper', 'own'),
  ('jit', 'heun', 'heun', 'zero', 'own'),
  ('jit', 'heun_scale2', 'heun', 'zero', 'own'),
  ('jit', 'euler', 'euler', 'zero', 'own'),
]


@pytest.mark.slow
@pytest.mark.parametrize('family, name, solver, bounds, tested', SAMPLERS)
def test_trajectories_are_the_public_codes(
  golden, assert_close, family, name, solver, bounds, tested
):
  arrays = golden(f'rivals/{family}')
  run = next(r for r in arrays.meta['samplers'] if r['name'] == name)
  known = dict(context_start=2) if family == 'jit' else {}
  if name == 'euler_xpred':
    known = dict(prediction='image')
  model = from_official(arrays.below('w'), family, **known)
  y = jnp.asarray(arrays['sample/y'], jnp.int32)
  null = jnp.full_like(y, model.config.num_classes)

  def velocity_given(y):
    return lambda x, t: as_velocity(
      model.config.prediction, model(x, t, y), x, t
    )

  low, high = 'guidance_interval_min', 'guidance_interval_max'
  if family == 'jit':
    low, high = 'interval_min', 'interval_max'
  velocity = guide(
    velocity_given(y),
    velocity_given(null),
    run.get('guidance', run.get('cfg')),
    (run.get(low, 0.0), run.get(high, 1.0)),
    bounds,
  )
  steps = run.get('num_steps', run.get('steps'))
  times = time_grid(steps, run.get('timeshift', 1.0))
  if f'sample/{name}_t' in arrays.arrays:
    np.testing.assert_allclose(times, arrays[f'sample/{name}_t'], atol=1e-6)
  ahead = dict(ahead=velocity) if tested == 'step' else {}
  noise = jnp.asarray(arrays['sample/noise'].transpose(0, 2, 3, 1))
  noise *= run.get('noise_scale', 1.0)

  @jax.jit
  def draw(noise):
    return solvers.get_solver(solver)(
      velocity, noise, times, integrate=solvers.all_states, **ahead
    )

  path = jnp.concatenate([noise[None], draw(noise)]).transpose(0, 1, 4, 2, 3)
  assert_close(path, arrays[f'sample/{name}'])
  for state, expected in zip(path, arrays[f'sample/{name}']):
    assert_close(state, expected)
