"""Images from weights: the network, guidance and a solver as one program."""

import functools
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.data.transforms import to_uint8
from pixeldit_jax.encoders import tiles
from pixeldit_jax.encoders.frozen import Frozen, put_frozen
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import Stages
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.samplers.token_reuse import sharing_tokens
from pixeldit_jax.sampling.diffusion_solvers import (
  check_solver,
  diffusion_solver,
  stage_solver,
)
from pixeldit_jax.sampling.guided_velocity import (
  branches,
  guided_velocity,
  velocity_sharing_tokens,
)
from pixeldit_jax.sampling.weak_network import load_weak
from pixeldit_jax.typing import (
  Array,
  Condition,
  Float,
  Int,
  PyTree,
  TextCondition,
  UInt8,
)

log = logging.getLogger(__name__)


class Numbers(NamedTuple):
  """Options of sampling that may change without another program.

  Attributes:
    key_data: of the key of the seed, uint32 [2].
    guidance: the scale, float32.
    encoder: weights of the encoder that grounds; None without one.
    autoencoder: weights of what decodes latents; None without one.
    weak: weights of a weaker network; None without one.
  """

  key_data: Any
  guidance: Any
  encoder: PyTree = None
  autoencoder: PyTree = None
  weak: PyTree = None


class Step(NamedTuple):
  """What a solver has come to.

  Attributes:
    number: steps that are done.
    steps: steps in all.
    time: where the last one ended; 1 is data.
    images: what the last step points at: the data on a straight way from there.
  """

  number: int
  steps: int
  time: float
  images: UInt8[np.ndarray, 'B H W C']


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
    encoder: Frozen | None = None,
  ):
    """Prepares the program, which is compiled for the first batch.

    Args:
      context: of the run; `config.sampler` and `config.seed` decide the images.
      size: height and width of the images; the run's resolution by default.
      batch_size: see the attribute; the images do not depend on it.
      return_trajectory: give the noise and what each step makes of it
        [B, steps + 1, H, W, C] instead of only the images.
      encoder: of a grounded network, by default `context.encoder`; without one
        the network is never given features.

    Raises:
      UserError: unknown solver, impossible steps, shift or interval, a size
        that does not divide into patches, or a weaker network that does not
        fit (`load_weak`).
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
    check_solver(config)
    self._times = time_grid(options.steps, options.shift, options.start)
    if config.model.size_embed:
      size = Stages(config.flow.stages).sides(*size)[0]
      if return_trajectory:
        raise UserError(
          'a trajectory of a PixelFlow: its states have several sizes; draw '
          'the images alone.'
        )
    self._shape = (*size, config.model.in_channels)
    self._encoder = encoder = encoder or context.encoder
    self._weak = load_weak(context)
    if context.model.grounding_width and not encoder:
      log.warning('grounding.encoder is empty: samples are made ungrounded.')
    batch = context.batch_sharding
    replicated = sharding.replicated(context.mesh)
    self._jitted = jax.jit(
      self._solve,
      in_shardings=(
        *(None, batch, batch, batch),
        Numbers(replicated, replicated),
      ),
      out_shardings=replicated,
    )
    self._begin, self._advance = jax.jit(self._start), jax.jit(self._step)

  @property
  def jitted(self) -> Any:
    """f(weights, indices, condition, unconditional, numbers) -> images, jitted.

    For reports on the compiled program, and for timing it; `numbers` are those
    of `self.numbers()`.
    """
    return self._jitted

  def numbers(
    self,
    seed: int | None = None,
    guidance: float | None = None,
    encoder: PyTree = None,
  ) -> Numbers:
    """The seed, the guidance and the encoder, by default those of the run.

    Args:
      seed, guidance: of these images.
      encoder: weights on the mesh, or abstract ones.

    Raises:
      UserError: guidance by a sampler that was made for none, of scale 1.
    """
    config = self._context.config
    seed = config.seed if seed is None else seed
    scale = config.sampler.guidance if guidance is None else guidance
    if config.sampler.guidance == 1 != scale:
      raise UserError(
        f'guidance={scale} by a sampler of sampler.guidance=1, which evaluates '
        'the network once a step: make one of another guidance.'
      )
    key_data = np.asarray(jax.random.key_data(jax.random.key(seed)))
    weights = self._encoder_weights if encoder is None else encoder
    weak = self._weak and self._weak.weights
    return Numbers(
      key_data, np.float32(scale), weights, self._autoencoder_weights, weak
    )

  @functools.cached_property
  def _encoder_weights(self) -> PyTree:
    """On the mesh; None without an encoder."""
    if not self._encoder:
      return None
    sharded = self._context.config.grounding.sharded
    rules = self._context.rules if sharded else None
    return put_frozen(self._encoder, self._context.mesh, rules)

  @functools.cached_property
  def _autoencoder_weights(self) -> PyTree:
    """On the mesh; None where the network sees pixels."""
    if not (autoencoder := self._context.autoencoder):
      return None
    everywhere = sharding.replicated(self._context.mesh)
    return jax.tree.map(
      # Every process has all of them.
      lambda a: jax.make_array_from_callback(
        a.shape, everywhere, lambda index: np.asarray(a[index])
      ),
      nnx.state(autoencoder),
    )

  def _pixels(
    self, x: Float[Array, 'B h w D'], numbers: Numbers
  ) -> UInt8[Array, 'B H W C']:
    """Images of what the solver ends with."""
    if autoencoder := self._context.autoencoder:
      merged = nnx.merge(nnx.graphdef(autoencoder), numbers.autoencoder)
      config = self._context.config
      latents = x / config.latents.scale
      x = tiles.decode(merged, latents, config.sampler.decode_tile)
    return to_uint8(x)

  def _solver_of(
    self, weights, indices, condition, unconditional, numbers
  ) -> Any:
    """f(x, integrate): the solver with its velocity."""
    config = self._context.config
    options, model = config.sampler, config.model
    network = self._context, weights, condition, unconditional
    scale = 1 if options.guidance == 1 else numbers.guidance
    weak = self._weak and self._weak._replace(weights=numbers.weak)
    if model.prediction == 'noise' or model.size_embed:
      of_run = stage_solver if model.size_embed else diffusion_solver
      key = jax.random.wrap_key_data(numbers.key_data)
      outputs = branches(*network, weak=weak)
      return of_run(config, outputs, scale, key, indices)
    encoder = self._encoder and (self._encoder[0], numbers.encoder)
    solver = solvers.get_solver(options.solver)

    def ahead(velocity):
      own = solver not in solvers.SLOPES_AHEAD or options.interval_time == 'own'
      return {} if own else dict(ahead=velocity)

    if (every := options.reuse_patch_tokens) > 1:
      velocity_at = velocity_sharing_tokens(*network, scale, encoder)
      return sharing_tokens(solver, velocity_at, self._times, every, ahead)
    velocity = guided_velocity(*network, scale, encoder, weak)
    return lambda x, integrate: solver(
      velocity, x, self._times, integrate, **ahead(velocity)
    )

  def _shown_times(self) -> np.ndarray:
    """Where what the solver repeats begins and ends: a step, or some."""
    every = self._context.config.sampler.reuse_patch_tokens
    return np.append(self._times[:-1:every], self._times[-1])

  def _noise(
    self, indices: Int[Array, 'B'], numbers: Numbers
  ) -> Float[Array, 'B H W C']:
    key = jax.random.wrap_key_data(numbers.key_data)
    scale = self._context.config.flow.noise_scale
    return scale * sample_noise(key, indices, self._shape)

  def _solve(
    self,
    weights: PyTree,
    indices: Int[Array, 'B'],
    condition: Condition,
    unconditional: TextCondition | None,
    numbers: Numbers,
  ) -> UInt8[Array, 'B *steps H W C']:
    network = weights, indices, condition, unconditional, numbers
    solve, noise = self._solver_of(*network), self._noise(indices, numbers)
    if not self._return_trajectory:
      return self._pixels(solve(noise, solvers.last_state), numbers)
    states = jnp.concatenate([noise[None], solve(noise, solvers.all_states)])
    pixels = jax.lax.map(lambda x: self._pixels(x, numbers), states)
    return pixels.swapaxes(0, 1)

  def _start(self, weights, indices, condition, unconditional, numbers) -> Any:
    """The carry of the solver before its first step."""
    network = weights, indices, condition, unconditional, numbers
    solve, noise = self._solver_of(*network), self._noise(indices, numbers)
    return solve(noise, lambda step, start, spans: start)

  def _step(
    self, number, carry, weights, indices, condition, unconditional, numbers
  ) -> tuple[Any, UInt8[Array, 'B H W C'], UInt8[Array, 'B H W C']]:
    """One step: what is carried on, the image, and what the step points at."""
    solve = self._solver_of(weights, indices, condition, unconditional, numbers)

    def one(step, start, spans):
      return step(carry, jax.tree.map(lambda rows: rows[number], spans))

    before, after = carry, solve(carry[0], one)
    x, x_next = before[0], after[0]
    times = jnp.asarray(self._shown_times())
    t, t_next = times[number], times[number + 1]
    ahead = x + (1 - t) / (t_next - t) * (x_next - x)
    if self._context.model.prediction == 'noise':
      ahead = x_next  # its way is not straight
    return after, self._pixels(x_next, numbers), self._pixels(ahead, numbers)

  def sample(
    self,
    weights: PyTree,
    indices: Int[np.ndarray, 'I'],
    condition: Condition,
    unconditional: TextCondition | None = None,
    *,
    numbers: Numbers | None = None,
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
      numbers: another seed or guidance than the run's, see `numbers`.
    """
    numbers = numbers or self.numbers()
    pending = None
    for start in range(0, len(indices), self.batch_size):
      part = slice(start, start + self.batch_size)
      arguments = jax.tree.map(
        lambda x, part=part: self._put(x[part]),
        (indices, condition, unconditional),
      )
      with self._context.use():
        images = self._jitted(weights, *arguments, numbers)
      if pending:
        yield _fetch(*pending)
      pending = images, len(indices[part])
    if pending:
      yield _fetch(*pending)

  def sample_by_steps(
    self,
    weights: PyTree,
    indices: Int[np.ndarray, 'B'],
    condition: Condition,
    unconditional: TextCondition | None = None,
    *,
    numbers: Numbers | None = None,
  ) -> Iterator[Step]:
    """Yields each step of one batch, the last with the finished images.

    The arguments are as for `sample`, of at most `batch_size` images. A step is
    a program of its own, so that a caller sees it and may stop; the images are
    those of `sample` up to rounding.
    """
    numbers = numbers or self.numbers()
    if self._context.model.size_embed:  # a stage is not of one size
      (images,) = self.sample(
        weights, indices, condition, unconditional, numbers=numbers
      )
      yield Step(1, 1, 1.0, images)
      return
    condition, unconditional, at = jax.tree.map(
      self._put, (condition, unconditional, np.asarray(indices))
    )
    with self._context.use():
      carry = self._begin(weights, at, condition, unconditional, numbers)
    times = self._shown_times()
    count = len(times) - 1
    for number in range(count):
      with self._context.use():
        carry, images, ahead = self._advance(
          np.int32(number),
          carry,
          *(weights, at, condition, unconditional, numbers),
        )
      shown = images if number == count - 1 else ahead
      time = float(times[number + 1])
      yield Step(number + 1, count, time, _fetch(shown, len(indices)))

  def _put(self, x: np.ndarray) -> jax.Array:
    return put_batch_of(self._context, self.batch_size, x)


def put_batch_of(
  context: RunContext, batch_size: int, x: np.ndarray
) -> jax.Array:
  """Splits one batch over the devices; a short one is filled with zeros.

  So there is one program for all batches.
  """
  x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
  full = np.zeros((batch_size, *x.shape[1:]), x.dtype)
  full[: len(x)] = x
  return jax.make_array_from_callback(
    full.shape, context.batch_sharding, lambda index: full[index]
  )


def _fetch(images: jax.Array, count: int) -> np.ndarray:
  return jax.device_get(images)[:count]
