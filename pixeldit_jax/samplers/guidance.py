"""Classifier-free guidance inside an interval of time.

Ho and Salimans (arXiv 2207.12598); the interval is Kynkaanniemi et al.
(arXiv 2404.07724).
"""

import jax

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import VelocityFn


def check_interval(interval) -> tuple[float, float]:
  """The interval as a pair.

  Raises:
    UserError: not two rising numbers in [0, 1].
  """
  if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
    raise UserError(
      f'sampler.interval={tuple(interval)}: two rising numbers in [0, 1].'
    )
  return tuple(interval)


def guide(
  conditional: VelocityFn,
  unconditional: VelocityFn,
  scale: float,
  interval: tuple[float, float] = (0.0, 1.0),
) -> VelocityFn:
  """v_u + scale * (v_c - v_u) for times inside, v_c alone outside.

  Args:
    conditional: velocity given the class, v_c(x, t).
    unconditional: velocity given no class; not computed outside.
    scale: 1 is no guidance.
    interval: times strictly between these two are guided.

  Returns:
    A velocity function of x and one scalar time.
  """
  if scale == 1:
    return conditional
  low, high = check_interval(interval)

  def velocity(x, t):
    v = conditional(x, t)

    def guided():
      v_u = unconditional(x, t)
      return v_u + scale * (v - v_u)

    return jax.lax.cond((low < t) & (t < high), guided, lambda: v)

  return velocity
