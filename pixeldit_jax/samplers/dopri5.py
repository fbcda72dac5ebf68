"""Dormand and Prince's solver of order 5, with steps as long as they may be."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float, VelocityFn

# Where the slopes of a step are taken, of what they are made, and the weights
# of the result and of its error (Hairer, Norsett and Wanner, table II.5.2).
NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1])
SLOPES = (
  (),
  (1 / 5,),
  (3 / 40, 9 / 40),
  (44 / 45, -56 / 15, 32 / 9),
  (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
  (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
RESULT = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (
  71 / 57600,
  0.0,
  -71 / 16695,
  71 / 1920,
  -17253 / 339200,
  22 / 525,
  -1 / 40,
)
SHRINK, GROW, SAFETY = 0.2, 10.0, 0.9


def dopri5(
  velocity: VelocityFn,
  x: Float[Array, 'B H W C'],
  *,
  rtol: float = 1e-3,
  atol: float = 1e-6,
  most_steps: int = 10_000,
) -> tuple[Float[Array, 'B H W C'], jax.Array]:
  """x at t = 1, from x at t = 0.

  The error of a step is the root of the mean square over all images, relative
  to atol + rtol |x|; so an image depends a little on those beside it.

  Args:
    velocity: dx/dt = v(x, t).
    x: the start.
    rtol, atol: tolerances of one step.
    most_steps: it stops after so many, short of the end.

  Returns:
    The end, and how often the velocity was evaluated.
  """

  def attempt(x, t, h, first):
    slopes = [first]
    for node, weights in zip(NODES[1:], SLOPES[1:]):
      at = x + h * _sum(weights, slopes)
      slopes.append(velocity(at, t + float(node) * h))
    new = x + h * _sum(RESULT, slopes)
    slopes.append(velocity(new, t + h))
    scale = atol + rtol * jnp.maximum(jnp.abs(x), jnp.abs(new))
    error = h * _sum(ERROR, slopes) / scale
    return new, slopes[-1], jnp.sqrt(jnp.mean(error**2))

  def goes_on(carry):
    _, t, _, _, steps = carry
    return (t < 1) & (steps < most_steps)

  def step(carry):
    x, t, h, first, steps = carry
    rest = 1 - t
    taken = jnp.minimum(h, rest)
    new, last, error = attempt(x, t, taken, first)
    accepted = error <= 1
    factor = SAFETY * jnp.maximum(error, 1e-10) ** -0.2
    lowest = jnp.where(accepted, 1.0, SHRINK)  # as torchdiffeq
    h = taken * jnp.clip(factor, lowest, GROW)
    x, first = (jnp.where(accepted, a, b) for a, b in ((new, x), (last, first)))
    after = jnp.where(taken < rest, t + taken, 1.0)
    return x, jnp.where(accepted, after, t), h, first, steps + 1

  t = jnp.float32(0)
  first = velocity(x, t)
  size, slope = (jnp.sqrt(jnp.mean(a**2)) for a in (x, first))
  h = jnp.minimum(0.01 * size / jnp.maximum(slope, 1e-6), 1.0)
  start = (x, t, jnp.float32(h), first, jnp.int32(0))
  x, _, _, _, steps = jax.lax.while_loop(goes_on, step, start)
  return x, 1 + 6 * steps


def _sum(weights, slopes):
  return sum(float(w) * k for w, k in zip(weights, slopes))
