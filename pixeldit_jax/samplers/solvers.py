"""Solvers of dx/dt = v(x, t) along a grid of times, each one compiled loop.

With `path`, a solver returns x after each of its steps [steps, B, H, W, C] in
place of the last one alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, VelocityFn

# f(velocity, x, times, path=False)
Solver = Callable[..., jax.Array]


def _steps(times: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Start, end, and "not the last" of each step, for `scan`."""
  times = jnp.asarray(times, jnp.float32)
  inner = jnp.arange(len(times) - 1) < len(times) - 2
  return times[:-1], times[1:], inner


def _integrate(step, start: tuple, spans: tuple, path: bool) -> jax.Array:
  """Repeats carry = step(carry, span); x is the first of the carry."""

  def body(carry, span):
    carry = step(carry, span)
    return carry, carry[0] if path else None

  (x, *_), states = jax.lax.scan(body, start, spans)
  return states if path else x


def euler(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  path: bool = False,
) -> Float[Array, '*steps B H W C']:
  """First order, one evaluation a step."""

  def step(carry, span):
    (x,), (t, t_next, _) = carry, span
    return (x + (t_next - t) * velocity(x, t),)

  return _integrate(step, (x,), _steps(times), path)


def heun(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  path: bool = False,
) -> Float[Array, '*steps B H W C']:
  """Second order, two evaluations a step; the last step is Euler's."""

  def step(carry, span):
    (x,), (t, t_next, inner) = carry, span
    v = velocity(x, t)

    def corrected():
      return (v + velocity(x + (t_next - t) * v, t_next)) / 2

    v = jax.lax.cond(inner, corrected, lambda: v)
    return (x + (t_next - t) * v,)

  return _integrate(step, (x,), _steps(times), path)


def heun_reuse(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  path: bool = False,
) -> Float[Array, '*steps B H W C']:
  """Heun whose end slope opens the next step: one evaluation a step.

  The release's Heun sampler with `exact_henu` off.
  """

  def step(carry, span):
    x, v = carry
    t, t_next, inner = span
    ahead = jax.lax.cond(
      inner,
      lambda: velocity(x + (t_next - t) * v, t_next),
      lambda: v,
    )
    return x + (t_next - t) * (v + ahead) / 2, ahead

  start = (x, velocity(x, jnp.float32(times[0])))
  return _integrate(step, start, _steps(times), path)


def flow_dpm(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  path: bool = False,
) -> Float[Array, '*steps B H W C']:
  """Two-step Adams-Bashforth, x += dt * (1.5 v - 0.5 v_before).

  One evaluation a step; the first step is Euler's. The coefficients are
  constant, as in the release, so it is of second order on even grids.
  """

  def step(carry, span):
    x, before, first = carry
    t, t_next, _ = span
    v = velocity(x, t)
    slope = jnp.where(first, v, 1.5 * v - 0.5 * before)
    return x + (t_next - t) * slope, v, False

  start = (x, jnp.zeros_like(x), True)
  return _integrate(step, start, _steps(times), path)


def dpm_solver(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  path: bool = False,
) -> Float[Array, '*steps B H W C']:
  """DPM-Solver++ (2M) (arXiv 2211.01095, algorithm 2), of data predictions.

  One evaluation a step, of second order on any grid; the first and the last
  step are of first order. On the path from noise to data, x_t = t data +
  (1 - t) noise, the data prediction is x + (1 - t) v.
  """

  def step(carry, span):
    x, before = carry
    t, keep, add, extrapolate = span
    data = x + (1 - t) * velocity(x, t)
    return keep * x + add * data + extrapolate * (data - before), data

  return _integrate(step, (x, jnp.zeros_like(x)), _dpm_steps(times), path)


def _dpm_steps(times: np.ndarray) -> tuple[jax.Array, ...]:
  """Time and coefficients of each step of `dpm_solver`, for `scan`.

  With the log of signal to noise, l = log(t / (1 - t)), and its increase h in
  a step: keep = noise ratio, add = t_next (1 - exp(-h)), and extrapolate is
  add / 2 times h over the increase before. l is infinite at 0 and 1.
  """
  times = np.asarray(times, np.float64)
  t, t_next = times[:-1], times[1:]
  keep = (1 - t_next) / (1 - t)
  add = t_next - t * keep
  with np.errstate(divide='ignore'):
    increase = np.diff(np.log(times) - np.log1p(-times))
  extrapolate = np.zeros_like(t)
  inner = slice(1, -1)
  extrapolate[inner] = add[inner] / 2 * increase[inner] / increase[:-2]
  spans = np.stack([t, keep, add, extrapolate]).astype(np.float32)
  return tuple(jnp.asarray(spans))


SOLVERS = (euler, heun, heun_reuse, flow_dpm, dpm_solver)


def named(name: str) -> Solver:
  """The solver that `config.sampler.solver` names.

  Raises:
    UserError: not one of `SOLVERS`.
  """
  for solver in SOLVERS:
    if solver.__name__ == name:
      return solver
  known = ', '.join(solver.__name__ for solver in SOLVERS)
  raise UserError(f'sampler.solver={name!r}: use one of {known}.')
