"""Inpainting: a part of a picture is drawn anew, the rest stays to the bit.

After every step the known part takes its place on the path from noise to the
picture. Lugmayr et al. (RePaint, arXiv 2201.09865) repeat each step, going back
in between, so that the two parts come to agree; here by the exact transition of
the straight path.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.editing.flow_edit import Draws, check_steps
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.solvers import Integrate, last_state
from pixeldit_jax.typing import Array, Float, Int, VelocityFn

# They carry nothing from step to step, so a step may be repeated.
REPEATABLE = (solvers.euler, solvers.heun)


def inpaint(
  velocity: VelocityFn,
  x_known: Float[Array, 'B H W C'],
  mask: Float[Array, '#B H W 1'],
  noise: Float[Array, 'B H W C'],
  times: np.ndarray,
  *,
  steps: int,
  merge_noise: Draws,
  back_noise: Draws | None = None,
  repeats: int = 1,
  solver: Callable[..., jax.Array] = solvers.euler,
  integrate: Integrate = last_state,
) -> Any:
  """Draws where the mask is 1.

  Args:
    velocity: towards what is wanted, guided.
    x_known: the picture, in [-1, 1].
    mask: 1 where it is new, 0 where it is known.
    noise: standard normal, that the drawing starts from.
    times: the sampler's grid, N + 1 times from noise to data.
    steps: the last so many are done; less than all start from the old content.
    merge_noise: of the known part, for each step or repetition from 0.
    back_noise: the noise of each way back, numbered from 0.
    repeats: how often each step but the last is done.
    solver: see `check_solver`.
    integrate: what is made of the states after each step or repetition.

  Raises:
    UserError: steps, or what `check_solver` refuses.
  """
  check_steps(len(times) - 1, steps)
  check_solver(solver, repeats)
  first = len(times) - 1 - steps
  rows, back = visits(steps, repeats)
  t = jnp.asarray(times[first:], jnp.float32)
  numbers = jnp.arange(len(rows))
  backs = jnp.asarray(np.cumsum(back) - back)  # ways back before each visit

  def with_known(step, start, spans):
    def visit(carry, row):
      at, number, goes_back, before = row
      x, *rest = step(carry, jax.tree.map(lambda s: s[at], spans))
      known = interpolate(x_known, merge_noise(number), t[at + 1])
      x = mask * x + (1 - mask) * known
      if repeats > 1 and back_noise is not None:
        x = jax.lax.cond(
          goes_back,
          lambda x: go_back(x, t[at + 1], t[at], back_noise(before)),
          lambda x: x,
          x,
        )
      return (x, *rest)

    spans_of_visits = jnp.asarray(rows), numbers, jnp.asarray(back), backs
    return integrate(visit, start, spans_of_visits)

  x = interpolate(x_known, noise, t[0])
  return solver(velocity, x, times[first:], with_known)


def visits(
  steps: int, repeats: int
) -> tuple[Int[np.ndarray, 'visits'], np.ndarray]:
  """The step of each visit, and whether it goes back afterwards (bool)."""
  rows = np.repeat(np.arange(steps - 1), repeats)
  back = np.tile(np.arange(repeats) < repeats - 1, steps - 1)
  return np.append(rows, steps - 1).astype(np.int32), np.append(back, False)


def go_back(
  x: Float[Array, 'B H W C'],
  t_from: Float[Array, ''],
  t: Float[Array, ''],
  noise: Float[Array, 'B H W C'],
) -> Float[Array, 'B H W C']:
  """A state of the path at an earlier time, drawn given that at a later one.

  x_t = (t / t') x_t' + sqrt((1 - t)^2 - (t / t')^2 (1 - t')^2) noise.
  """
  ratio = t / t_from
  variance = (1 - t) ** 2 - ratio**2 * (1 - t_from) ** 2
  return ratio * x + jnp.sqrt(variance) * noise


def check_solver(solver: Callable[..., jax.Array], repeats: int) -> None:
  """Raises UserError for a solver that does not take a changed state."""
  name = getattr(solver, '__name__', str(solver))
  if repeats < 1:
    raise UserError(f'repeats={repeats}: at least 1.')
  if solver is solvers.heun_reuse:
    raise UserError(
      f'solver={name!r}: its slope is of the state before the known part is '
      'set; use heun.'
    )
  if repeats > 1 and solver not in REPEATABLE:
    raise UserError(
      f'solver={name!r} with repeats={repeats}: it remembers the steps before; '
      'use euler or heun, or repeats=1.'
    )
