"""Samplers of networks of noise and variance: DDPM and DDIM, as DiT draws.

arXiv 2006.11239 and 2010.02502. From the noisiest step to the least noisy.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.flow.diffusion import Diffusion
from pixeldit_jax.samplers.solvers import Integrate, last_state
from pixeldit_jax.typing import Array, Float

GUIDED_CHANNELS = 3
# f(x, t): [eps, v] [B, H, W, 2C] at one step t of the `STEPS` of training.
NoiseFn = Callable[[jax.Array, jax.Array], jax.Array]
# f(i): noise of the i-th step that is made, counted from the noisiest.
StepNoise = Callable[[jax.Array], jax.Array]


def guide_noise(
  given_class: Float[Array, 'B H W O'],
  given_none: Float[Array, 'B H W O'],
  scale: float | jax.Array,
  channels: int = GUIDED_CHANNELS,
) -> tuple[Float[Array, 'B H W O'], Float[Array, 'B H W O']]:
  """Both outputs, guided in the first channels of the noise.

  DiT guides three of its four; the other, and the variance, stay those of each
  branch.
  """
  none = given_none[..., :channels]
  guided = none + scale * (given_class[..., :channels] - none)
  first, second = (
    jnp.concatenate([guided, output[..., channels:]], -1)
    for output in (given_class, given_none)
  )
  return first, second


def ddpm(
  predict: NoiseFn,
  x: Float[Array, 'B H W C'],
  diffusion: Diffusion,
  step_noise: StepNoise,
  integrate: Integrate = last_state,
) -> Any:
  """Draws each step from the Gaussian that the network gives.

  Args:
    predict: the network, perhaps guided.
    x: standard normal noise.
    diffusion: the steps to make, from `respaced`.
    step_noise: standard normal images; the last step uses none.
    integrate: as of `samplers.solvers`.
  """

  def step(x, t, number, z):
    noise, fraction = jnp.split(predict(x, number), 2, -1)
    data = diffusion.data_from(x, noise, t)
    std = jnp.exp(0.5 * diffusion.log_variance(fraction, t))
    return diffusion.posterior_mean(data, x, t) + std * z

  return _steps(step, x, diffusion, step_noise, integrate)


def ddim(
  predict: NoiseFn,
  x: Float[Array, 'B H W C'],
  diffusion: Diffusion,
  step_noise: StepNoise,
  integrate: Integrate = last_state,
  *,
  eta: float = 0.0,
) -> Any:
  """Without chance (eta 0), or with eta times the noise of the posterior.

  The other arguments are those of `ddpm`; the variance is not used.
  """
  signal, before = diffusion.signal, diffusion.signal_before
  sigma = eta * np.sqrt((1 - before) / (1 - signal) * (1 - signal / before))
  rest = np.sqrt(1 - before - sigma**2)

  def step(x, t, number, z):
    noise, _ = jnp.split(predict(x, number), 2, -1)
    data = diffusion.data_from(x, noise, t)
    mean = diffusion.at(np.sqrt(before), t) * data
    return mean + diffusion.at(rest, t) * noise + diffusion.at(sigma, t) * z

  return _steps(step, x, diffusion, step_noise, integrate)


def _steps(step, x, diffusion, step_noise, integrate):
  """x = step(x, index, step given to the network, noise), down to index 0."""
  count = len(diffusion.kept)

  def body(carry, span):
    (x,), (i, number) = carry, span
    t, z = count - 1 - i, step_noise(i)
    return (step(x, t, number, jnp.where(t > 0, z, jnp.zeros_like(z))),)

  number = jnp.asarray(diffusion.kept[::-1], jnp.float32)
  return integrate(body, (x,), (jnp.arange(count), number))
