"""Steps that share patch tokens: the patch path once in every few steps.

The patch path, most of the operations, carries the meaning of an image, which
changes slowly from step to step; the pixel path is computed in each.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.samplers.solvers import Integrate, Solver
from pixeldit_jax.typing import VelocityFn


def sharing_tokens(
  solver: Solver,
  velocity_at: Callable[[jax.Array, jax.Array], VelocityFn],
  times: np.ndarray,
  every: int,
  options: Callable[[VelocityFn], Mapping[str, Any]],
) -> Callable[[jax.Array, Integrate], Any]:
  """f(x, integrate): a solver whose velocity is made anew every few steps.

  What `integrate` repeats is `every` steps at once.

  Args:
    solver: of `samplers.solvers`, of a velocity.
    velocity_at: f(x, t) -> the velocity with the patch tokens of x and t.
    times: of the steps.
    every: steps with the same tokens.
    options: f(velocity) -> more arguments of the solver.
  """
  steps = len(times) - 1
  grid = jnp.asarray(times, jnp.float32)

  def solve_with(velocity, x, integrate):
    return solver(velocity, x, times, integrate, **options(velocity))

  def solve(x, integrate):
    start = solve_with(
      velocity_at(x, grid[0]), x, lambda step, start, spans: start
    )

    def group(carry, span):
      (first,) = span
      velocity = velocity_at(carry[0], grid[first])

      def one(number, carry):
        return solve_with(
          velocity,
          carry[0],
          lambda step, start, spans: step(
            carry, jax.tree.map(lambda rows: rows[number], spans)
          ),
        )

      # The last group may be shorter.
      return jax.lax.fori_loop(
        first, jnp.minimum(first + every, steps), one, carry
      )

    return integrate(group, start, (jnp.arange(0, steps, every),))

  return solve
