"""Images from weights: the network, guidance and a solver as one program."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.data.transforms import to_uint8
from pixeldit_jax.flow.prediction import as_velocity
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.typing import (
  Array,
  Condition,
  GroundedCondition,
  Int,
  PyTree,
  TextCondition,
  UInt8,
)


class Sampler:
  """The compiled sampler of a run, batches split over its mesh.

  Attributes:
    batch_size: images made at once: that asked for, or by default
      `config.sampler.batch_size`, rounded up to fill the devices.
  """

  def __init__(
    self,
    context: RunContext,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    return_trajectory: bool = False,
  ):
    """Prepares the program, which is compiled for the first batch.

    Args:
      context: of the run; `config.sampler` and `config.seed` decide the images.
      size: height and width of the images; the run's resolution by default.
      batch_size: see the attribute; the images do not depend on it.
      return_trajectory: give the noise and what each step makes of it
        [B, steps + 1, H, W, C] instead of only the images.

    Raises:
      UserError: unknown solver, impossible steps, shift or interval, or a size
        that does not divide into patches.
    """
    config = context.config
    side = config.data.resolution
    size = size or (side, side)
    context.model.grid(*size)
    options = config.sampler
    devices = sharding.batch_shards(context.mesh, context.rules)
    wanted = batch_size or options.batch_size
    self.batch_size = -(-wanted // devices) * devices
    self._context, self._return_trajectory = context, return_trajectory
    self._solver = solvers.get_solver(options.solver)
    self._times = time_grid(options.steps, options.shift, options.start)
    self._shape = (*size, config.model.in_channels)
    self._graphdef = nnx.graphdef(abstract_model(context.model))
    batch = context.batch_sharding
    self._jitted = jax.jit(
      self._solve,
      in_shardings=(None, batch, batch, batch),
      out_shardings=sharding.replicated(context.mesh),
    )

  @property
  def jitted(self) -> Any:
    """The jitted f(weights, indices, condition, unconditional) -> images.

    For reports on the compiled program, and for timing it.
    """
    return self._jitted

  def _solve(
    self,
    weights: PyTree,
    indices: Int[Array, 'B'],
    condition: Condition,
    unconditional: TextCondition | None,
  ) -> UInt8[Array, 'B *steps H W C']:
    config = self._context.config
    model = nnx.merge(self._graphdef, weights)
    away: Condition | None = unconditional
    if not isinstance(condition, TextCondition | GroundedCondition):
      away = jnp.full_like(condition, config.model.num_classes)
    options, prediction = config.sampler, config.model.prediction

    def velocity_given(y):
      return lambda x, t: as_velocity(prediction, model(x, t, y), x, t)

    velocity = guide(
      velocity_given(condition),
      velocity_given(away),
      options.guidance,
      options.interval,
      options.interval_bounds,
    )
    ahead: dict[str, Any] = {}
    if self._solver in solvers.SLOPES_AHEAD and options.interval_time == 'step':
      ahead['ahead'] = velocity
    noise = sample_noise(config.seed, indices, self._shape)
    noise *= config.flow.noise_scale
    images = self._solver(
      velocity, noise, self._times, self._return_trajectory, **ahead
    )
    if self._return_trajectory:
      images = jnp.concatenate([noise[None], images]).swapaxes(0, 1)
    return to_uint8(images)

  def sample(
    self,
    weights: PyTree,
    indices: Int[np.ndarray, 'I'],
    condition: Condition,
    unconditional: TextCondition | None = None,
  ) -> Iterator[UInt8[np.ndarray, 'B *steps H W C']]:
    """Yields batches of images in the order of `indices`, in all processes.

    While one batch is used, the devices make the next.

    Args:
      weights: of the network, on the mesh or in host memory.
      indices: of the images in the sample set; with the seed they decide the
        noise.
      condition: for each image, in NumPy arrays: labels [I], or texts.
      unconditional: of a network of texts, the text that guidance leads away
        from, one for each image: a negative prompt, or the null text. A network
        of classes has its null class.
    """
    pending = None
    for start in range(0, len(indices), self.batch_size):
      part = slice(start, start + self.batch_size)
      arguments = jax.tree.map(
        lambda x, part=part: self._put(x[part]),
        (indices, condition, unconditional),
      )
      with self._context.use():
        images = self._jitted(weights, *arguments)
      if pending:
        yield _fetch(*pending)
      pending = images, len(indices[part])
    if pending:
      yield _fetch(*pending)

  def _put(self, x: np.ndarray) -> jax.Array:
    """Splits one batch over the devices; the last one is filled with zeros.

    So there is one program for all batches.
    """
    x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
    full = np.zeros((self.batch_size, *x.shape[1:]), x.dtype)
    full[: len(x)] = x
    return jax.make_array_from_callback(
      full.shape, self._context.batch_sharding, lambda index: full[index]
    )


def _fetch(images: jax.Array, count: int) -> np.ndarray:
  return jax.device_get(images)[:count]
