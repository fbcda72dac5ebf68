"""SDEdit: a picture made noisy, and drawn from there.

Meng et al. (arXiv 2108.01073), on the path from noise to data. With the
condition of the picture itself it gives variations; of an enlarged picture, the
details that enlarging cannot have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.editing.flow_edit import check_steps
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.samplers.solvers import Integrate, euler, last_state
from pixeldit_jax.typing import Array, Float, VelocityFn


def steps_of_strength(count: int, strength: float) -> int:
  """The steps that are done of `count`: min(int(count * strength), count).

  Args:
    count: steps of the grid.
    strength: 1 draws anew, little changes little.
  """
  return min(int(count * strength), count)


def sd_edit(
  velocity: VelocityFn,
  x_source: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  times: np.ndarray,
  *,
  steps: int,
  solver: Callable[..., jax.Array] = euler,
  integrate: Integrate = last_state,
) -> Any:
  """Draws from the noisy picture.

  Args:
    velocity: towards what is wanted, guided.
    x_source: the picture, in [-1, 1].
    noise: standard normal.
    times: the sampler's grid, N + 1 times from noise to data.
    steps: the last so many of the N are done.
    solver: any of `samplers.solvers`.
    integrate: what is made of the steps.

  Raises:
    UserError: more steps than the grid has.
  """
  check_steps(len(times) - 1, steps)
  first = len(times) - 1 - steps
  x = interpolate(x_source, noise, jnp.float32(times[first]))
  return solver(velocity, x, times[first:], integrate)
