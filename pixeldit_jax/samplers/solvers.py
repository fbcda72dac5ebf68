"""Solvers of dx/dt = v(x, t) along a grid of times, each one compiled loop.

A solver returns what `integrate` makes of its steps: `last_state` the last x,
`all_states` x after each step [steps, B, H, W, C]. Editing has its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, VelocityFn

# f(velocity, x, times, integrate=last_state); those of `SLOPES_AHEAD` also take
# `ahead`.
Solver = Callable[..., Any]
# f(step, start, spans): repeats carry = step(carry, span), once for each row of
# the arrays of `spans`; x is the first of the carry.
Integrate = Callable[..., Any]
# f(x, t_next, t): the velocity at the end of a step that starts at t.
SlopeAhead = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _steps(times: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Start, end, and "not the last" of each step, for `scan`."""
  t = jnp.asarray(times, jnp.float32)
  inner = jnp.arange(len(t) - 1) < len(t) - 2
  return t[:-1], t[1:], inner


def last_state(step, start: tuple, spans: tuple) -> jax.Array:
  """The x that the last step leaves, in one compiled loop."""
  (x, *_), _ = jax.lax.scan(
    lambda carry, span: (step(carry, span), None), start, spans
  )
  return x


def all_states(step, start: tuple, spans: tuple) -> jax.Array:
  """x after each step, in one compiled loop."""

  def body(carry, span):
    carry = step(carry, span)
    return carry, carry[0]

  return jax.lax.scan(body, start, spans)[1]


def euler(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Any:
  """First order, one evaluation a step."""

  def step(carry, span):
    (x,), (t, t_next, _) = carry, span
    return (x + (t_next - t) * velocity(x, t),)

  return integrate(step, (x,), _steps(times))


def jump(
  velocity: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Float[Array, '*steps B H W C']:
  """x += (q - s) U(x, s, q) from each time s to the next, q.

  U is the average velocity of `samplers.mean_flow`: two times, 0 and 1, draw
  in one evaluation.
  """

  def step(carry, span):
    (x,), (t, t_next, _) = carry, span
    return (x + (t_next - t) * velocity(x, t, t_next),)

  return integrate(step, (x,), _steps(times))


def heun(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
  ahead: SlopeAhead | None = None,
) -> Any:
  """Second order, two evaluations a step; the last step is Euler's.

  Args:
    velocity, x, times, integrate: see above.
    ahead: the second slope of a step, by default velocity(x, t_next).
  """
  ahead = ahead or (lambda x, t_next, t: velocity(x, t_next))

  def step(carry, span):
    (x,), (t, t_next, inner) = carry, span
    v = velocity(x, t)

    def corrected():
      return (v + ahead(x + (t_next - t) * v, t_next, t)) / 2

    v = jax.lax.cond(inner, corrected, lambda: v)
    return (x + (t_next - t) * v,)

  return integrate(step, (x,), _steps(times))


def heun_reuse(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
  ahead: SlopeAhead | None = None,
) -> Any:
  """Heun whose end slope opens the next step: one evaluation a step.

  The release's Heun sampler with `exact_henu` off. `ahead` is as for `heun`.
  """
  ahead = ahead or (lambda x, t_next, t: velocity(x, t_next))

  def step(carry, span):
    x, v = carry
    t, t_next, inner = span
    end = jax.lax.cond(
      inner,
      lambda: ahead(x + (t_next - t) * v, t_next, t),
      lambda: v,
    )
    return x + (t_next - t) * (v + end) / 2, end

  start = (x, velocity(x, jnp.float32(times[0])))
  return integrate(step, start, _steps(times))


def flow_dpm(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Any:
  """Two-step Adams-Bashforth, x += dt * (1.5 v - 0.5 v_before).

  One evaluation a step; the first step is Euler's. The coefficients are
  constant, as in the release, so it is of second order on even grids;
  `adams2` is so on any.
  """

  def step(carry, span):
    x, before, first = carry
    t, t_next, _ = span
    v = velocity(x, t)
    slope = jnp.where(first, v, 1.5 * v - 0.5 * before)
    return x + (t_next - t) * slope, v, False

  start = (x, jnp.zeros_like(x), True)
  return integrate(step, start, _steps(times))


def adams2(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Any:
  """Adams-Bashforth of the last two velocities, for grids that are not even.

  One evaluation a step; the first step is Euler's. DeCo and PixNerd draw their
  images of texts with it.
  """
  return _adams(2, velocity, x, times, integrate)


def adams3(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Any:
  """`adams2` of the last three velocities."""
  return _adams(3, velocity, x, times, integrate)


def _adams(order, velocity, x, times, integrate):
  weights = jnp.asarray(adams_weights(times, order))

  def step(carry, span):
    x, *before = carry
    t, t_next, w = span
    velocities = [*before, velocity(x, t)]
    slope = sum(w[i] * v for i, v in enumerate(velocities))
    return x + (t_next - t) * slope, *velocities[1:]

  start = (x, *(jnp.zeros_like(x),) * (order - 1))
  starts, ends, _ = _steps(times)
  return integrate(step, start, (starts, ends, weights))


def adams_weights(times: np.ndarray, order: int) -> np.ndarray:
  """The weight of each of the last velocities, oldest first, in each step.

  The mean over the step of the polynomial through these velocities. The first
  steps have fewer of them, and zeros in place of the others.

  Args:
    times: steps + 1 of them.
    order: the number of velocities.

  Returns:
    float32 [steps, order].
  """
  times = np.asarray(times, np.float64)
  weights = np.zeros((len(times) - 1, order))
  for i, span in enumerate(np.diff(times)):
    count = min(order, i + 1)
    ago = (times[i + 1 - count : i + 1] - times[i]) / span
    powers = np.arange(count)
    # Exact for the powers of time, whose means over a step are 1 / (m + 1).
    known = 1 / (powers + 1)
    weights[i, order - count :] = np.linalg.solve(ago ** powers[:, None], known)
  return weights.astype(np.float32)


def dpm_solver(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  times: np.ndarray,
  integrate: Integrate = last_state,
) -> Any:
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

  return integrate(step, (x, jnp.zeros_like(x)), _dpm_steps(times))


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


SOLVERS = (euler, heun, heun_reuse, flow_dpm, adams2, adams3, dpm_solver)
OF_AVERAGES = (jump,)  # solvers that take an average velocity
# Of networks without one velocity: DiT (samplers.ddpm), and PixelFlow, which
# takes 'euler' too (samplers.stages).
OF_NOISE, OF_STAGES = ('ddpm', 'ddim'), ('euler', 'dopri5')
SLOPES_AHEAD = (heun, heun_reuse)


def get_solver(name: str) -> Solver:
  """The solver that `config.sampler.solver` names.

  Raises:
    UserError: not one of `SOLVERS` or `OF_AVERAGES`.
  """
  known = SOLVERS + OF_AVERAGES
  for solver in known:
    if solver.__name__ == name:
      return solver
  names = ', '.join(solver.__name__ for solver in known)
  raise UserError(f'sampler.solver={name!r}: use one of {names}.')
