"""PixelFlow's sampler: a solver in each stage, jumps with noise between."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import SHARES, Stages, next_stage
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.dopri5 import dopri5
from pixeldit_jax.typing import Array, Float

# v(x, T): the velocity of a stage, T what the network is given for the time.
StageVelocity = Callable[[jax.Array, jax.Array], jax.Array]


def stage_velocity(
  conditional: StageVelocity,
  unconditional: StageVelocity,
  stages: Stages,
  stage: int,
  scale: float | jax.Array,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """v(x, t) in a stage, guided by its share of the scale; 1 has no guidance.

  A scale of 1 that is not known before the program runs is guidance too.
  """
  plain = isinstance(scale, int | float) and scale == 1
  share = 1.0 if plain else stages.guidance(scale)[stage]

  def velocity(x, t):
    time = stages.time_of(stage, t)
    v = conditional(x, time)
    if plain or not SHARES[stages.count][stage]:
      return v
    v_u = unconditional(x, time)
    return v_u + share * (v - v_u)

  return velocity


def sample_stages(
  conditional: StageVelocity,
  unconditional: StageVelocity,
  noise: Sequence[Float[Array, 'B _ _ C']],
  *,
  stages: Stages,
  scale: float | jax.Array,
  steps: int | Sequence[int] = 30,
  shift: float = 1.0,
  solver: str = 'euler',
  rtol: float = 1e-3,
  atol: float = 1e-6,
) -> list[tuple[Float[Array, 'B _ _ C'], Float[Array, 'B _ _ C']]]:
  """The start and the end of every stage; the last end is the image.

  Args:
    conditional, unconditional: the network with the class, and without.
    noise: standard normal for the first stage, `block_noise` for the others.
    stages: of the network.
    scale: of guidance; 1 is none.
    steps: evaluations of a stage, or of each one, by 'euler'.
    shift: of the times of a stage.
    solver: 'euler' or 'dopri5'.
    rtol, atol: tolerances of 'dopri5'.

  Raises:
    UserError: a solver that there is not, steps or noise of another number
      than the stages.
  """
  if solver not in ('euler', 'dopri5'):
    raise UserError(f"solver={solver!r} in stages: 'euler' or 'dopri5'.")
  each = [steps] * stages.count if isinstance(steps, int) else list(steps)
  if len(each) != stages.count or len(noise) != stages.count:
    raise UserError(
      f'{len(each)} numbers of steps and {len(noise)} of noise for '
      f'{stages.count} stages: one for each.'
    )
  found: list[tuple[jax.Array, jax.Array]] = []
  for stage in range(stages.count):
    x = noise[0]
    if stage:
      x = next_stage(stages, stage, found[-1][1], noise[stage])
    velocity = stage_velocity(conditional, unconditional, stages, stage, scale)
    if solver == 'euler':
      end = solvers.euler(velocity, x, stages.times(each[stage], shift))
    else:
      end, _ = dopri5(velocity, x, rtol=rtol, atol=atol)
    found.append((x, jnp.asarray(end)))
  return found
