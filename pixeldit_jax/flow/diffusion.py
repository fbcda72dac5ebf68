"""Diffusion in steps, and the loss of a network of noise and variance.

DDPM (arXiv 2006.11239) with the variance learned (2102.09672), as DiT has it:

  x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps,   a_t = product of (1 - beta)

t = 0 is the least noisy. The output is [eps, v]: the log of the variance of a
step is f log(beta_t) + (1 - f) log(posterior variance), f = (v + 1) / 2.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, Int

STEPS = 1000
PIXEL = 1 / 255  # half the distance of two of 256 values in [-1, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion:
  """Tables of the steps, float64 [T]; t below is an index of them.

  Attributes:
    betas: variance that each step adds.
    kept: the step that the network is given, of the `STEPS` it is trained on.
  """

  betas: Float[np.ndarray, 'T']
  kept: Int[np.ndarray, 'T']

  @functools.cached_property
  def signal(self) -> Float[np.ndarray, 'T']:
    """a_t, the share of the data in the variance."""
    return np.cumprod(1 - self.betas)

  @functools.cached_property
  def signal_before(self) -> Float[np.ndarray, 'T']:
    """a of the step before; 1 before the first."""
    return np.append(1.0, self.signal[:-1])

  @functools.cached_property
  def posterior_variance(self) -> Float[np.ndarray, 'T']:
    """The variance of q(x_{t-1} | x_t, x_0)."""
    return self.betas * (1 - self.signal_before) / (1 - self.signal)

  @functools.cached_property
  def posterior_log_variance(self) -> Float[np.ndarray, 'T']:
    """Its log; the first, which would be log 0, is the second."""
    return np.log(
      np.append(self.posterior_variance[1], self.posterior_variance[1:])
    )

  @functools.cached_property
  def posterior_weights(self) -> Float[np.ndarray, '2 T']:
    """The mean of q(x_{t-1} | x_t, x_0) is the first x_0 + the second x_t."""
    data = self.betas * np.sqrt(self.signal_before) / (1 - self.signal)
    state = (1 - self.signal_before) * np.sqrt(1 - self.betas)
    return np.stack([data, state / (1 - self.signal)])

  def at(
    self, table: Float[np.ndarray, 'T'], t: Int[Array, '*B']
  ) -> Float[Array, '*B 1 1 1']:
    """A table at steps, float32, to be multiplied with images."""
    return jnp.asarray(table, jnp.float32)[t][..., None, None, None]

  def noisy(
    self,
    data: Float[Array, 'B H W C'],
    noise: Float[Array, 'B H W C'],
    t: Int[Array, 'B'],
  ) -> Float[Array, 'B H W C']:
    """x_t."""
    keep, add = np.sqrt(self.signal), np.sqrt(1 - self.signal)
    return self.at(keep, t) * data + self.at(add, t) * noise

  def data_from(
    self,
    x: Float[Array, 'B H W C'],
    noise: Float[Array, 'B H W C'],
    t: Int[Array, '*b'],
  ) -> Float[Array, 'B H W C']:
    """x_0 of x_t and its noise; not clipped."""
    scale, remove = np.sqrt(1 / self.signal), np.sqrt(1 / self.signal - 1)
    return self.at(scale, t) * x - self.at(remove, t) * noise

  def posterior_mean(
    self,
    data: Float[Array, 'B H W C'],
    x: Float[Array, 'B H W C'],
    t: Int[Array, '*b'],
  ) -> Float[Array, 'B H W C']:
    """The mean of x_{t-1}, given x_0 and x_t."""
    of_data, of_state = self.posterior_weights
    return self.at(of_data, t) * data + self.at(of_state, t) * x

  def log_variance(
    self, fraction: Float[Array, 'B H W C'], t: Int[Array, '*b']
  ) -> Float[Array, 'B H W C']:
    """The log variance of a step: the output v interpolates its bounds."""
    f = (fraction + 1) / 2
    most, least = np.log(self.betas), self.posterior_log_variance
    return f * self.at(most, t) + (1 - f) * self.at(least, t)


def linear_diffusion(steps: int = STEPS) -> Diffusion:
  """Betas from 1e-4 to 0.02 in even steps, as of 1000."""
  scale = STEPS / steps
  betas = np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
  return Diffusion(betas, np.arange(steps))


def respaced(diffusion: Diffusion, steps: int | str) -> Diffusion:
  """The diffusion over some of its steps, with the same a_t at these.

  Args:
    diffusion: with every step.
    steps: how many, evenly spaced, with both ends; several numbers as '10,5'
      for equal parts, the least noisy first; or 'ddim25', multiples of the
      smallest whole stride that gives so many.

  Raises:
    UserError: more steps than there are, or no such stride.
  """
  kept = kept_steps(len(diffusion.betas), steps)
  signal = diffusion.signal[kept]
  betas = 1 - signal / np.append(1.0, signal[:-1])
  return Diffusion(betas, diffusion.kept[kept])


def kept_steps(total: int, steps: int | str) -> np.ndarray:
  """Indices of the steps that `respaced` keeps, rising."""
  text = str(steps)
  if text.startswith('ddim'):
    wanted = _count(text.removeprefix('ddim'), steps)
    for stride in range(1, total):
      if len(range(0, total, stride)) == wanted:
        return np.arange(0, total, stride)
    raise UserError(
      f'steps={steps!r}: no whole stride gives {wanted} of {total} steps; use '
      f'a divisor of {total}, or a number without ddim.'
    )
  counts = [_count(part, steps) for part in text.split(',')]
  kept, start = [], 0
  for i, count in enumerate(counts):
    size = total // len(counts) + (i < total % len(counts))
    if count > size:
      raise UserError(f'steps={steps!r}: {count} of {size} steps; keep fewer.')
    apart = (size - 1) / (count - 1) if count > 1 else 1.0
    place = 0.0  # summed up, not multiplied: halves are rounded as in DiT
    for _ in range(count):
      kept.append(start + round(place))
      place += apart
    start += size
  return np.asarray(kept)


def _count(text: str, steps: int | str) -> int:
  if not text.isdigit() or not int(text):
    raise UserError(
      f"steps={steps!r}: a number, as 250, several as '10,5', or 'ddim25'."
    )
  return int(text)


def hybrid_loss(
  diffusion: Diffusion,
  output: Float[Array, 'B H W O'],
  data: Float[Array, 'B H W C'],
  noise: Float[Array, 'B H W C'],
  t: Int[Array, 'B'],
) -> dict[str, Float[Array, 'B']]:
  """'mse' of the noise and 'vb' of the variance; DiT's loss is their sum.

  Args:
    diffusion: all steps.
    output: of the network at `diffusion.noisy(data, noise, t)`: noise and
      variance, O = 2C.
    data, noise: what it was made of.
    t: steps, one each.

  Returns:
    Means over entries. vb is in bits: the divergence of the network's step from
    the true one; at t = 0, minus the log likelihood of the data in 256 values.
    It only moves the variance.
  """
  predicted, fraction = jnp.split(output.astype(jnp.float32), 2, -1)
  mse = _mean((predicted - noise) ** 2)
  x = diffusion.noisy(data, noise, t)
  found = diffusion.data_from(x, jax.lax.stop_gradient(predicted), t)
  mean = diffusion.posterior_mean(found, x, t)
  log_variance = diffusion.log_variance(fraction, t)
  true_mean = diffusion.posterior_mean(data, x, t)
  true_log_variance = diffusion.at(diffusion.posterior_log_variance, t)
  divergence = 0.5 * (
    log_variance
    - true_log_variance
    - 1
    + jnp.exp(true_log_variance - log_variance)
    + (true_mean - mean) ** 2 * jnp.exp(-log_variance)
  )
  first = -_log_likelihood(data, mean, log_variance / 2)
  vb = jnp.where(t == 0, _mean(first), _mean(divergence)) / np.log(2)
  return dict(mse=mse, vb=vb)


def _mean(x: Float[Array, 'B H W C']) -> Float[Array, 'B']:
  return jnp.mean(x, axis=(1, 2, 3))


def _log_likelihood(x, mean, log_std):
  """The log likelihood of 256 values in [-1, 1]; the end bins are open."""

  def log(p):
    return jnp.log(jnp.maximum(p, 1e-12))

  def below(value):  # the normal distribution function, approximately
    z = jnp.exp(-log_std) * (value - mean)
    return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

  upper, lower = below(x + PIXEL), below(x - PIXEL)
  inside = jnp.where(x > 0.999, log(1 - lower), log(upper - lower))
  return jnp.where(x < -0.999, log(upper), inside)
