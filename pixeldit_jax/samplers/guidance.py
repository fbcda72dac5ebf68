"""Classifier-free guidance inside an interval of time.

Ho and Salimans (arXiv 2207.12598); the interval is Kynkaanniemi et al.
(arXiv 2404.07724).
"""

from collections.abc import Callable

import jax

from pixeldit_jax.errors import UserError
from pixeldit_jax.samplers.stronger_guidance import Combine, plain
from pixeldit_jax.typing import VelocityFn

# An interval includes neither bound (PixelDiT, PixNerd), the upper one (DeCo),
# or only a lower bound of 0 (JiT).
BOUNDS = ('open', 'upper', 'zero')


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


def is_guided(t, interval: tuple[float, float], bounds: str = 'open'):
  """Whether a time is inside an interval, with one of `BOUNDS`."""
  low, high = interval
  above = (low < t) | (bounds == 'zero' and low == 0)
  return above & ((t <= high) if bounds == 'upper' else (t < high))


def guide(
  conditional: VelocityFn,
  unconditional: VelocityFn,
  scale: float | jax.Array,
  interval: tuple[float, float] = (0.0, 1.0),
  bounds: str = 'open',
  rule: Callable[[float | jax.Array], Combine] = plain,
) -> Callable[..., jax.Array]:
  """v_u + scale * (v_c - v_u), or another rule, for times inside, v_c outside.

  Args:
    conditional: velocity given the class, v_c(x, t).
    unconditional: velocity given no class; not computed outside.
    scale: the number 1 is no guidance, and one evaluation; an array is not
      known when the program is made, and guides whatever its value.
    interval: times between these two are guided.
    bounds: which of the two are inside, one of `BOUNDS`.
    rule: of `stronger_guidance`, given the scale.

  Returns:
    A velocity function of x and one scalar time. A third argument is another
    time that decides whether it is guided, by default that time.
  """
  interval = check_interval(interval)

  off = isinstance(scale, int | float) and scale == 1

  def velocity(x, t, decided_at=None):
    v = conditional(x, t)
    if off:
      return v

    def guided():
      return rule(scale)(v, unconditional(x, t), x, t)

    decided_at = t if decided_at is None else decided_at
    inside = is_guided(decided_at, interval, bounds)
    return jax.lax.cond(inside, guided, lambda: v)

  return velocity
