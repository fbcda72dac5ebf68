"""Average velocities of a network, guided without a second branch.

pMF (arXiv 2601.22158) draws in one evaluation by them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.prediction import as_velocity
from pixeldit_jax.model.mean_flow import PixelMeanFlow, Step
from pixeldit_jax.typing import Array, Int


def average_of(model: Any) -> Callable[..., tuple[jax.Array, jax.Array | None]]:
  """f(x, s, q, y, omega, low, high) -> average velocity from s to q, velocity.

  In the time of this project, 1 is data; all but x are [B]. The velocity, where
  the network has a branch of it, is else None.

  Args:
    model: pMF, or a PixelDiT that is given its steps (`config.mean_flow`).

  Raises:
    UserError: a network that knows velocities only.
  """
  config = model.config
  if config.mean_flow == 'none':
    raise UserError(
      "model.mean_flow='none': this network knows no average velocities; use "
      "'added', or 'tokens' for pMF."
    )

  def of_tokens(x, s, q, y, omega, low, high):
    step = Step(q - s, omega, 1 - high, 1 - low)  # pMF's time: 1 is noise
    images = model.branches(x, y, step)
    u, v = (
      None if image is None else as_velocity('image', image, x, s)
      for image in images
    )
    return u, v

  def added(x, s, q, y, omega, low, high):
    output = model(x, s, y, step=Step(q - s, omega, low, high))
    return as_velocity(config.prediction, output, x, s), None

  return of_tokens if isinstance(model, PixelMeanFlow) else added


def guided_average(
  model: Any,
  y: Int[Array, 'B'],
  omega: float | jax.Array,
  interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[..., jax.Array]:
  """U(x, s, q) of labels, at one scale and interval of guidance.

  Without q it is the velocity at s. `solvers.jump` draws with it.
  """
  average = average_of(model)

  def at(x, s, q=None):
    q = s if q is None else q
    numbers = (omega, *interval)
    omega_B, low_B, high_B, s_B, q_B = (
      jnp.full(x.shape[:1], n, jnp.float32) for n in (*numbers, s, q)
    )
    return average(x, s_B, q_B, y, omega_B, low_B, high_B)[0]

  return at
