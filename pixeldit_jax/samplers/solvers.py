"""Solvers of dx/dt = v(x, t) along a grid of times, each one compiled loop.

With `path`, a solver returns x after each of its steps [steps, B, H, W, C] in
place of the last one alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float, VelocityFn

# f(velocity, x, times, path=False)
Solver = Callable[..., jax.Array]


def _steps(times: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Start, end, and "not the last" of each step, for `scan`."""
  times = jnp.asarray(times, jnp.float32)
  inner = jnp.arange(len(times) - 1) < len(times) - 2
  return times[:-1], times[1:], inner


def _integrate(step, start: tuple, times: np.ndarray, path: bool) -> jax.Array:
  """Repeats carry = step(carry, span); x is the first of the carry."""

  def body(carry, span):
    carry = step(carry, span)
    return carry, carry[0] if path else None

  (x, *_), states = jax.lax.scan(body, start, _steps(times))
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

  return _integrate(step, (x,), times, path)


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

  return _integrate(step, (x,), times, path)


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
  return _integrate(step, start, times, path)


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
  return _integrate(step, start, times, path)


def named(name: str) -> Solver:
  """The solver that `config.sampler.solver` names.

  Raises:
    ValueError: not one of euler, heun, heun_reuse, flow_dpm.
  """
  for solver in (euler, heun, heun_reuse, flow_dpm):
    if solver.__name__ == name:
      return solver
  raise ValueError(
    f'sampler.solver={name!r}: use euler, heun, heun_reuse or flow_dpm.'
  )
