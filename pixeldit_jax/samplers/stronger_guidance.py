"""Other guidance than classifier-free: each makes one velocity of two.

v is the velocity that is wanted, u the one that guidance leads away from: of no
class, or of a weaker network (autoguidance, arXiv 2406.02507: a smaller one, or
an earlier checkpoint, given the same class).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, VelocityFn

# f(v, u, x, t) -> guided velocity, of images x at one time t.
Combine = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
IMAGE = (1, 2, 3)


def combine_velocities(
  wanted: VelocityFn, away: VelocityFn, combine: Combine
) -> VelocityFn:
  """The velocity that a rule makes of two, for any solver."""
  return lambda x, t: combine(wanted(x, t), away(x, t), x, t)


def plain(scale: float | jax.Array) -> Combine:
  """u + scale (v - u); with a weaker network for u this is autoguidance."""
  return lambda v, u, x, t: u + scale * (v - u)


def on_schedule(
  combine: Callable[[float | jax.Array], Combine],
  scale: Callable[[jax.Array], jax.Array],
) -> Combine:
  """A rule whose scale depends on the time: scale(t), 1 is none."""
  return lambda v, u, x, t: combine(scale(t))(v, u, x, t)


def zero_star(scale: float | jax.Array, zero_until: float = 0.04) -> Combine:
  """CFG-Zero* (arXiv 2503.18886): u is first scaled to fit v best.

  Args:
    scale: of guidance.
    zero_until: up to this time the velocity is 0, where a network is worse than
      none.
  """

  def combine(v, u, x, t):
    dot = jnp.sum(v * u, IMAGE, keepdims=True)
    fit = dot / (jnp.sum(u * u, IMAGE, keepdims=True) + 1e-8)
    guided = fit * u + scale * (v - fit * u)
    return jnp.where(t < zero_until, jnp.zeros_like(guided), guided)

  return combine


def rescaled(scale: float | jax.Array, share: float = 0.7) -> Combine:
  """Guidance that keeps the spread of v (arXiv 2305.08891, section 3.4).

  Args:
    scale: of guidance.
    share: of the rescaled velocity, the rest is as guided; 0 is plain.

  Raises:
    UserError: a share outside [0, 1].
  """
  if not 0 <= share <= 1:
    raise UserError(f'share={share} of rescaled guidance: between 0 and 1.')

  def combine(v, u, x, t):
    guided = u + scale * (v - u)
    spread, ours = (jnp.std(a, IMAGE, keepdims=True) for a in (v, guided))
    return guided * (share * spread / jnp.maximum(ours, 1e-8) + 1 - share)

  return combine


def projected(
  scale: float | jax.Array, parallel: float = 0.0, longest: float = 0.0
) -> Combine:
  """Adaptive projected guidance (arXiv 2410.02416), without its momentum.

  What guidance adds is split along the predicted image and across it; the part
  along it, which saturates colours, counts less.

  Args:
    scale: of guidance.
    parallel: the share of the part along the image; 1 is plain.
    longest: the most that guidance may add, as a norm over an image; 0 is any.

  Raises:
    UserError: a negative length.
  """
  if longest < 0:
    raise UserError(f'longest={longest} of projected guidance: at least 0.')

  def combine(v, u, x, t):
    left = 1 - t
    image = x + left * v
    difference = left * (v - u)  # of images
    if longest:
      norm = _norm(difference)
      difference *= jnp.minimum(1.0, longest / jnp.maximum(norm, 1e-8))
    unit = image / jnp.maximum(_norm(image), 1e-8)
    along = jnp.sum(difference * unit, IMAGE, keepdims=True) * unit
    added = difference - along + parallel * along
    return v + (scale - 1) * added / jnp.maximum(left, 1e-3)

  return combine


GUIDANCE_RULES = (plain, zero_star, rescaled, projected)


def get_rule(name: str) -> Callable[[float | jax.Array], Combine]:
  """The rule that `config.sampler.rule` names.

  Raises:
    UserError: not one of `GUIDANCE_RULES`.
  """
  for rule in GUIDANCE_RULES:
    if rule.__name__ == name:
      return rule
  known = ', '.join(rule.__name__ for rule in GUIDANCE_RULES)
  raise UserError(f'sampler.rule={name!r}: use one of {known}.')


def _norm(x: Float[Array, 'B H W C']) -> Float[Array, 'B 1 1 1']:
  return jnp.sqrt(jnp.sum(x * x, IMAGE, keepdims=True))
