"""FlowEdit: from a picture to its edit without a way through noise.

Kulikov et al. (arXiv 2412.08629), algorithm 1, on the path from noise at t=0 to
data at t=1. The difference of two velocities, towards the target and towards
what the source shows, moves the picture; the same noise serves both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.samplers.solvers import Integrate, euler, last_state
from pixeldit_jax.typing import Array, Float, Int, VelocityFn

# f(number): the standard normal images of one draw [B, H, W, C], fresh for
# each number.
Draws = Callable[[Int[Array, '']], jax.Array]


class Direction(NamedTuple):
  """Where an edit goes at one time.

  Attributes:
    mean: the difference of the velocities, over all draws.
    source: the noisy source of the last draw.
    target: the noisy target of the last draw.
  """

  mean: Float[Array, 'B H W C']
  source: Float[Array, 'B H W C']
  target: Float[Array, 'B H W C']


def edit_direction(
  velocities: tuple[VelocityFn, VelocityFn],
  x_source: Float[Array, 'B H W C'],
  z: Float[Array, 'B H W C'],
  t: Float[Array, ''],
  draws: Draws,
  first: Int[Array, ''] | int,
  average: int,
) -> Direction:
  """Towards the target and away from the source, at one time.

  Args:
    velocities: towards what the source shows, and towards the target.
    x_source: the picture.
    z: what the edit has made of it; as clean as the picture.
    t: the time.
    draws: the noise.
    first: the number of the first draw.
    average: draws that the direction is the mean of.
  """
  of_source, of_target = velocities

  def add(k, found):
    a = interpolate(x_source, draws(first + k), t)
    b = z + a - x_source
    mean = found.mean + (of_target(b, t) - of_source(a, t)) / average
    return Direction(mean, a, b)

  zeros = jnp.zeros_like(z)
  return jax.lax.fori_loop(0, average, add, Direction(zeros, zeros, zeros))


def flow_edit_steps(
  velocities: tuple[VelocityFn, VelocityFn],
  x_source: Float[Array, 'B H W C'],
  times: np.ndarray,
  draws: Draws,
  average: int = 1,
  integrate: Integrate = last_state,
) -> Any:
  """Moves the picture along `times` by `edit_direction`.

  Args:
    velocities, x_source, draws, average: see `edit_direction`; a step takes its
      `average` draws in order, from number 0.
    times: rising; the velocities are taken where a step starts.
    integrate: as of a solver.
  """

  def step(carry, span):
    (z,), (t, t_next, number) = carry, span
    found = edit_direction(
      velocities, x_source, z, t, draws, number * average, average
    )
    return (z + (t_next - t) * found.mean,)

  t = jnp.asarray(times, jnp.float32)
  return integrate(step, (x_source,), (t[:-1], t[1:], jnp.arange(len(t) - 1)))


def flow_edit(
  velocities: tuple[VelocityFn, VelocityFn],
  x_source: Float[Array, 'B H W C'],
  times: np.ndarray,
  draws: Draws,
  *,
  steps: int,
  free_steps: int = 0,
  average: int = 1,
  solver: Callable[..., jax.Array] = euler,
  integrate: Integrate = last_state,
) -> Any:
  """Edits a picture.

  Args:
    velocities: towards what the source shows, and towards the target, each
      with its own guidance.
    x_source: the picture, in [-1, 1].
    times: the sampler's grid, N + 1 times from noise to data.
    draws: the noise; `average` draws a step, in order, from number 0.
    steps: only the last so many of the N are done (n_max of the paper): fewer
      keep more of the picture.
    free_steps: the last so many of these (n_min) leave the source alone and
      draw towards the target, from a noisy state.
    average: draws that each direction is the mean of (n_avg).
    solver: of the free steps.
    integrate: what is made of the steps, if none are free.

  Raises:
    UserError: more steps than the grid has, or more free ones than steps.
  """
  check_steps(len(times) - 1, steps, free_steps)
  first, turn = len(times) - 1 - steps, len(times) - 1 - free_steps
  moved = velocities, x_source, times[first : turn + 1], draws, average
  if not free_steps:
    return flow_edit_steps(*moved, integrate)
  z = flow_edit_steps(*moved) if turn > first else x_source
  noise = draws(jnp.int32((turn - first) * average))
  t = jnp.float32(times[turn])
  x = z + interpolate(x_source, noise, t) - x_source
  return solver(velocities[1], x, times[turn:])


def check_steps(count: int, steps: int, free_steps: int = 0) -> None:
  """Raises UserError for steps that a grid of `count` has not."""
  if not 1 <= steps <= count:
    raise UserError(
      f'{steps} of {count} steps: at least one, and at most all; the strength '
      f'of an edit must be at least {1 / count:.3g} and at most 1.'
    )
  if not 0 <= free_steps <= steps:
    raise UserError(
      f'free_steps={free_steps}: of the {steps} steps that are done.'
    )
