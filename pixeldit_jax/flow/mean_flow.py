"""The objective of average velocities (pixel MeanFlow, arXiv 2601.22158).

In the time of this project: 0 is noise, 1 is data, a step goes from s to q. For
the average velocity U from s to q, along the path dx/ds = v with q fixed,

  W = U(x, s, q) - (q - s) dU/ds

is the velocity v. W is trained towards it, dU/ds by `jax.jvp`: towards the
guided one, whose scale and interval are inputs, so that a network draws guided
images in one evaluation.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.flow.prediction import velocity_to
from pixeldit_jax.typing import Array, Bool, Float, Int, Key

EPS, POWER = 0.01, 1.0  # of the adaptive weight
MOST_OMEGA = 8.0


class MeanFlowDraws(NamedTuple):
  """What is drawn for each image of a batch [B].

  Attributes:
    s, q: start and end of a step, s <= q.
    omega: the scale of guidance that the network is given.
    low, high: the interval of guidance.
    dropped: images that lose their label, and guidance with it.
    part: uniform numbers that choose the part of an image that is judged, see
      `images.parts.random_part`.
  """

  s: Float[Array, 'B']
  q: Float[Array, 'B']
  omega: Float[Array, 'B']
  low: Float[Array, 'B']
  high: Float[Array, 'B']
  dropped: Bool[Array, 'B']
  part: Float[Array, 'B 4'] | None = None


# f(x, s, q, y, omega, low, high): the average velocity from s to q, and the
# velocity by a branch of its own, or None.
AverageFn = Callable[..., tuple[jax.Array, jax.Array | None]]
# A weight, and f(images, data) -> [B].
Perceptual = tuple[float, Callable[[jax.Array, jax.Array], jax.Array]]


def draw_mean_flow(
  key: Key,
  batch: int,
  *,
  mean: float = -0.8,
  std: float = 0.8,
  beta: float = 1.0,
  dropout: float = 0.1,
  uniform: float = 0.0,
) -> MeanFlowDraws:
  """As pMF draws: for the first half of a batch the step has no length.

  Args:
    key: of this step.
    batch: B.
    mean, std: of the logit-normal times.
    beta: the density of the scales falls as omega^-beta.
    dropout: the share of labels that is dropped, of the first images.
    uniform: the share of images whose times are uniform.
  """
  keys = jax.random.split(key, 6)
  times = jax.nn.sigmoid(mean + std * jax.random.normal(keys[0], (2, batch)))
  even, chosen = jax.random.split(keys[1])
  chosen = jax.random.bernoulli(chosen, uniform, (batch,))
  times = jnp.where(chosen, jax.random.uniform(even, (2, batch)), times)
  first = jnp.arange(batch) < batch // 2
  s, q = times[0], jnp.where(first, times[0], times[1])
  low = 0.5 * jax.random.uniform(keys[2], (batch,))
  high = 0.5 + 0.5 * jax.random.uniform(keys[3], (batch,))
  count = jnp.sum(jax.random.bernoulli(keys[5], dropout, (batch,)))
  return MeanFlowDraws(
    s=jnp.minimum(s, q),
    q=jnp.maximum(s, q),
    omega=guidance_scales(jax.random.uniform(keys[4], (batch,)), beta),
    low=jnp.where(first, 0.0, low),
    high=jnp.where(first, 1.0, high),
    dropped=jnp.arange(batch) < count,
    part=jax.random.uniform(jax.random.fold_in(key, 6), (batch, 4)),
  )


def guidance_scales(
  uniforms: Float[Array, 'B'], beta: float, most: float = MOST_OMEGA
) -> Float[Array, 'B']:
  """Scales in [1, most], of density omega^-beta, from uniform numbers."""
  if beta == 1:
    return most**uniforms
  power = 1 - beta
  return (1 + uniforms * (most**power - 1)) ** (1 / power)


def mean_flow_loss(
  average: AverageFn,
  data: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  draws: MeanFlowDraws,
  labels: Int[Array, 'B'],
  null: int,
  perceptual: Mapping[str, Perceptual] | None = None,
  noisiest: float = 0.2,
  derivative: AverageFn | None = None,
) -> tuple[Float[Array, 'B'], dict[str, Float[Array, 'B']]]:
  """The loss of each image, and its parts.

  Args:
    average: the network.
    data: images in [-1, 1].
    noise: normal, already scaled.
    draws: of `draw_mean_flow`.
    labels: of the images, none dropped.
    null: the label of no class.
    perceptual: losses of the image that is predicted against the data, by name.
    noisiest: from which time on they count.
    derivative: the same network by operations that have a forward derivative,
      where those of `average` have none.

  Returns:
    The weighted sum, and 'loss', the mean square of W - v, its value without
    weight; 'velocity' likewise of the branch of v, and the perceptual ones
    before their weights, where there are such.
  """
  s, q = draws.s, draws.q
  x = interpolate(data, noise, s)
  guided, tangent = _guided_velocity(average, x, data, draws, labels, null)
  y = jnp.where(draws.dropped, null, labels)
  U, dU, v = _derivative(average, derivative, x, tangent, y, draws)
  step = jax.lax.expand_dims(q - s, (1, 2, 3))
  W = U - step * jax.lax.stop_gradient(dU)
  total, squares = _adaptive(W, guided)
  found = dict(loss=squares)
  if v is not None:
    of_velocity, found['velocity'] = _adaptive(v, guided)
    total += of_velocity
  if perceptual:
    left = jax.lax.expand_dims(1 - s, (1, 2, 3))
    images, counts = x + left * U, s > noisiest
    for name, (weight, loss) in perceptual.items():
      value = jnp.where(counts, loss(images, data), 0.0)
      found[name] = value
      total += weight * value / jax.lax.stop_gradient(value + EPS)
  return total, found


def _derivative(average, derivative, x, tangent, y, draws):
  """U, dU/ds along the path, and the velocity by its own branch or None."""
  s, q, omega, low, high = draws[:5]

  def of(f):
    return lambda x, s: f(x, s, q, y, omega, low, high)

  f = of(derivative or average)
  return jax.jvp(f, (x, s), (tangent, jnp.ones_like(s)), has_aux=True)


def _guided_velocity(average, x, data, draws, labels, null):
  """The target of W, and the velocity of the class along which x moves."""
  s, _, omega, low, high, dropped = draws[:6]
  zero, one = jnp.zeros_like(s), jnp.ones_like(s)
  w = jnp.where((low <= s) & (s <= high), omega, one)

  def velocity(y, omega):
    U, v = average(x, s, s, y, omega, zero, one)
    return jax.lax.stop_gradient(U if v is None else v)

  of_class = velocity(labels, w)
  of_none = velocity(jnp.full_like(labels, null), one)
  plain = velocity_to(data, x, s)
  share = jax.lax.expand_dims(1 - 1 / w, (1, 2, 3))
  guided = plain + share * (of_class - of_none)
  lost = jax.lax.expand_dims(dropped, (1, 2, 3))
  return jax.lax.stop_gradient(jnp.where(lost, plain, guided)), of_class


def _adaptive(found, target):
  """The sum of squares over itself, [B], and the mean of squares."""
  squares = (found.astype(jnp.float32) - target) ** 2
  total = jnp.sum(squares, axis=(1, 2, 3))
  weight = jax.lax.stop_gradient((total + EPS) ** POWER)
  return total / weight, jnp.mean(squares, axis=(1, 2, 3))
