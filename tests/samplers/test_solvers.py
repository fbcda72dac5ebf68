"""Solvers against the authors' samples and a problem with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.typing import TextCondition

SOLVERS = {
  'euler': solvers.euler,
  'heun': solvers.heun,
  'heun_reuse': solvers.heun_reuse,
  'flow_dpm': solvers.flow_dpm,
  'flow_dpm_shift': solvers.flow_dpm,
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SOLVERS)
def test_samples_are_the_authors(golden, assert_close, name):
  arrays = golden('c2i_samplers')
  run = next(run for run in arrays.meta['runs'] if run['name'] == name)
  model = from_official(golden('c2i_forward').below('w'))
  y = jnp.asarray(arrays['y'], jnp.int32)
  velocity = guide(
    lambda x, t: model(x, t, y),
    lambda x, t: model(x, t, jnp.full_like(y, 10)),
    run['guidance'],
    (run['guidance_interval_min'], run['guidance_interval_max']),
  )
  times = time_grid(run['num_steps'], run['timeshift'])
  noise = jnp.asarray(arrays['noise'].transpose(0, 2, 3, 1))
  sample = jax.jit(lambda x: SOLVERS[name](velocity, x, times))(noise)
  assert_close(sample.transpose(0, 3, 1, 2), arrays[name])


def test_the_text_to_image_sample_is_the_authors(golden, assert_close):
  arrays = golden('t2i')
  *_, steps, shift, scale = arrays.meta['sample']
  model = from_official(arrays.below('w'))
  cond, uncond = (
    TextCondition(jnp.asarray(arrays[f'sample/{name}']))
    for name in ('cond', 'uncond')
  )
  velocity = guide(
    lambda x, t: model(x, t, cond), lambda x, t: model(x, t, uncond), scale
  )
  times = time_grid(steps, shift, start=0.001)
  noise = jnp.asarray(arrays['sample/noise'].transpose(0, 2, 3, 1))
  sample = jax.jit(lambda x: solvers.dpm_solver(velocity, x, times))(noise)
  assert_close(sample.transpose(0, 3, 1, 2), arrays['sample/out'])


@pytest.mark.parametrize(
  'solver, order',
  [
    (solvers.euler, 1),
    (solvers.heun, 2),
    (solvers.heun_reuse, 2),
    (solvers.flow_dpm, 2),
    (solvers.adams2, 2),
    (solvers.dpm_solver, 2),
  ],
)
def test_order_of_the_error(solver, order):
  """dx/dt = -x^2 has x(1) = x(0) / (1 + x(0)); no method gains an order."""
  x = jnp.ones((1, 1, 1, 1))

  def error(steps):
    end = solver(lambda x, t: -(x**2), x, time_grid(steps))
    return abs(float(end[0, 0, 0, 0]) - 1 / 2)

  seen = np.log2(error(32) / error(64))
  assert abs(seen - order) < 0.3


@pytest.mark.parametrize('name, shift', [('adam2', 3.0), ('adam3', 1.0)])
def test_weights_of_adams_are_the_public_codes(golden, name, shift):
  arrays = golden('rivals/deco')
  times = arrays[f'sample/{name}_t']
  np.testing.assert_allclose(time_grid(6, shift), times, atol=1e-6)
  order = int(name[-1])
  np.testing.assert_allclose(
    solvers.adams_weights(times, order),
    arrays[f'sample/{name}_coeffs'][:, -order:],
    atol=1e-4,
  )


@pytest.mark.parametrize(
  'solver, degree', [(solvers.adams2, 1), (solvers.adams3, 2)]
)
def test_adams_is_exact_for_polynomials_on_grids_that_are_not_even(
  solver, degree
):
  """After the first steps, which have fewer velocities."""
  times = time_grid(8, shift=6.0)
  velocity = lambda x, t: x * 0 + (degree + 1) * t**degree  # noqa: E731
  start = jnp.zeros((1, 1, 1, 1))
  states = solver(velocity, start, times, integrate=solvers.all_states).ravel()
  steps = np.diff(states)[degree - 1 :]
  expected = np.diff(times[1:] ** (degree + 1))[degree - 1 :]
  np.testing.assert_allclose(steps, expected, atol=1e-6)


def test_the_slope_ahead_of_heun_can_be_told_where_its_step_starts():
  """With a velocity that is the time which it is asked about."""
  x, times = jnp.zeros((1, 1, 1, 1)), time_grid(2)
  velocity = lambda x, t, at=None: x * 0 + (t if at is None else at)  # noqa: E731
  own = solvers.heun(velocity, x, times)
  start = solvers.heun(velocity, x, times, ahead=velocity)
  assert float(own[0, 0, 0, 0]) == 0.5 * (0 + 0.5) / 2 + 0.5 * 0.5
  assert float(start[0, 0, 0, 0]) == 0.5 * 0 + 0.5 * 0.5


@pytest.mark.parametrize('solver', solvers.SOLVERS)
def test_a_trajectory_is_the_state_after_each_step(solver):
  times, x = time_grid(32), jnp.ones((1, 1, 1, 1))
  velocity = lambda x, t: jnp.cos(3 * t) * x  # noqa: E731
  states = solver(velocity, x, times, integrate=solvers.all_states)
  assert states.shape == (32, 1, 1, 1, 1)
  assert states[-1] == solver(velocity, x, times)
  exact = np.exp(np.sin(3 * times[1:]) / 3)
  np.testing.assert_allclose(states.ravel(), exact, rtol=0.03)


def test_a_straight_path_is_exact_in_one_step():
  x = jax.random.normal(jax.random.key(0), (2, 2, 2, 3))
  for solver in solvers.SOLVERS:
    end = solver(lambda x, t: jnp.ones_like(x), x, time_grid(1))
    np.testing.assert_allclose(end, x + 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  'bounds, interval, guided',
  [
    ('open', (0.25, 0.75), [0.5]),
    ('upper', (0.25, 0.75), [0.5, 0.75]),
    ('zero', (0.25, 0.75), [0.5]),
    ('open', (0.0, 0.75), [0.25, 0.5]),
    ('zero', (0.0, 0.75), [0.0, 0.25, 0.5]),
  ],
)
def test_guidance_acts_inside_its_interval(bounds, interval, guided):
  velocity = guide(
    lambda x, t: jnp.ones_like(x),
    lambda x, t: jnp.zeros_like(x),
    3.0,
    interval,
    bounds,
  )
  x = jnp.zeros((1, 1, 1, 1))
  for t in (0.0, 0.25, 0.5, 0.75, 1.0):
    v = float(velocity(x, jnp.float32(t))[0, 0, 0, 0])
    assert v == (3 if t in guided else 1), t
    # What another time decides does not depend on t.
    assert float(velocity(x, jnp.float32(0.1), t)[0, 0, 0, 0]) == v


def test_outside_its_interval_guidance_computes_one_branch():
  """A callback counts the evaluations of a compiled sampler."""
  calls = []

  def unconditional(x, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t)
    return x

  velocity = guide(lambda x, t: -x, unconditional, 2.0, (0.4, 0.8))
  times = time_grid(10)
  sample = jax.jit(lambda x: solvers.euler(velocity, x, times))
  jax.block_until_ready(sample(jnp.ones((1, 1, 1, 1))))
  jax.effects_barrier()
  inside = [t for t in times[:-1] if np.float32(0.4) < t < np.float32(0.8)]
  assert sorted(calls) == pytest.approx(inside)


def test_noise_of_a_sample_is_its_own():
  together = sample_noise(7, jnp.arange(6), (4, 4, 3))
  parts = [sample_noise(7, jnp.arange(i, i + 2), (4, 4, 3)) for i in (0, 2, 4)]
  np.testing.assert_array_equal(together, jnp.concatenate(parts))
  assert jnp.abs(together[0] - together[1]).max() > 0.1
  other = sample_noise(8, jnp.arange(6), (4, 4, 3))
  assert jnp.abs(together - other).max() > 0.1


@pytest.mark.parametrize(
  'call, named',
  [
    (lambda: solvers.get_solver('rk4'), 'rk4.*euler'),
    (lambda: time_grid(0), 'steps=0'),
    (lambda: time_grid(5, -1.0), 'shift=-1.0'),
    (lambda: time_grid(5, start=1.5), 'start=1.5'),
    (lambda: guide(None, None, 2.0, (0.9, 0.1)), 'interval'),
  ],
)
def test_impossible_samplers_are_refused(call, named):
  with pytest.raises(ValueError, match=named):
    call()
