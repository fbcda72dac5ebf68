"""A run's network that edits batches of pictures, on all devices."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax import sharding
from pixeldit_jax.data.transforms import normalize, to_uint8
from pixeldit_jax.editing.flow_edit import check_steps, flow_edit
from pixeldit_jax.editing.inpaint import check_solver, inpaint, visits
from pixeldit_jax.editing.sd_edit import sd_edit, steps_of_strength
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.noise import sample_noise
from pixeldit_jax.samplers.solvers import Integrate, get_solver, last_state
from pixeldit_jax.sampling.checked_numbers import finite, integer
from pixeldit_jax.sampling.guided_velocity import guided_velocity
from pixeldit_jax.sampling.sampler import Step, put_batch_of
from pixeldit_jax.typing import (
  Array,
  Bool,
  Condition,
  Int,
  PyTree,
  TextCondition,
  UInt8,
)

METHODS = ('flowedit', 'sdedit', 'inpaint')
# Streams of noise beside that of the start, whose number is the draw.
_MERGE, _BACK = 1 << 20, 1 << 21


@dataclasses.dataclass(frozen=True)
class EditOptions:
  """How pictures are edited; `config.sampler` has steps, shift and solver.

  Attributes:
    method: 'flowedit', 'sdedit' or 'inpaint'.
    strength: the share of the steps that are done: at 1 of SDEdit and
      inpainting, nothing of the old content stays.
    source_guidance: FlowEdit's scale towards what the picture shows.
    target_guidance: the scale towards what is wanted.
    average: FlowEdit's draws a step (n_avg).
    free_steps: FlowEdit's last steps without the source (n_min).
    repeats: of each step of inpainting (RePaint).
  """

  method: str = 'flowedit'
  strength: float = 0.7
  source_guidance: float = 1.5
  target_guidance: float = 4.0
  average: int = 1
  free_steps: int = 0
  repeats: int = 1

  def __post_init__(self):
    if self.method not in METHODS:
      raise UserError(f'method={self.method!r}: use {", ".join(METHODS)}.')
    if not 0 < finite('strength', self.strength) <= 1:
      raise UserError(f'strength={self.strength}: above 0 and at most 1.')
    for name, least in (('average', 1), ('free_steps', 0), ('repeats', 1)):
      integer(name, getattr(self, name), least)
    for name in ('source_guidance', 'target_guidance'):
      finite(name, getattr(self, name))


# The target, what guidance leads away from, and the same of the source.
Conditions = tuple[
  Condition, TextCondition | None, Condition, TextCondition | None
]


class Editor:
  """The compiled edit of a run, batches split over its mesh.

  Attributes:
    batch_size: pictures at once, rounded up to fill the devices.
  """

  def __init__(
    self,
    context: RunContext,
    options: EditOptions,
    *,
    size: tuple[int, int],
    batch_size: int,
  ):
    """Prepares the program, which is compiled for the first batch.

    Args:
      context: of the run; `config.sampler` has the grid and the solver.
      options: the method; the scales of guidance are not compiled in.
      size: height and width of the pictures.
      batch_size: see the attribute.

    Raises:
      UserError: a size, a solver or steps that the method does not take.
    """
    sampler = context.config.sampler
    context.model.grid(*size)
    self._context, self._options = context, options
    self._solver = get_solver(sampler.solver)
    self._times = time_grid(sampler.steps, sampler.shift, sampler.start)
    count = len(self._times) - 1
    self._steps = steps_of_strength(count, options.strength)
    check_steps(count, self._steps, options.free_steps)
    if options.method == 'inpaint':
      check_solver(self._solver, options.repeats)
    devices = sharding.batch_shards(context.mesh, context.rules)
    self.batch_size = -(-batch_size // devices) * devices
    if name := context.config.latents.autoencoder:
      raise UserError(
        f'latents.autoencoder={name!r}: networks of latents draw (pixeldit '
        'sample), but do not edit pictures.'
      )
    self._shape = (*size, context.config.model.in_channels)
    batch, replicated = (
      context.batch_sharding,
      sharding.replicated(context.mesh),
    )
    self._jitted = jax.jit(
      self._edit,
      in_shardings=(None, batch, batch, batch, batch, replicated),
      out_shardings=replicated,
    )
    self._begin, self._advance = jax.jit(self._start), jax.jit(self._step)

  def edit(
    self,
    weights: PyTree,
    images: UInt8[np.ndarray, 'I H W C'],
    indices: Int[np.ndarray, 'I'],
    conditions: Conditions,
    mask: Bool[np.ndarray, 'I H W'] | None = None,
    *,
    seed: int = 0,
    guidance: tuple[float, float] | None = None,
    on_step: Callable[[Step], Any] | None = None,
  ) -> Iterator[UInt8[np.ndarray, 'B H W C']]:
    """Yields edited batches in the order of the pictures, in all processes.

    Where the mask is False, the pixels are those of the picture.

    Args:
      weights: of the network.
      images: the pictures.
      indices: with the seed they decide the noise.
      conditions: for each picture.
      mask: the part that may change; by default everything.
      seed: of the noise.
      guidance: scales of source and target, by default those of the options.
      on_step: called after each step of each batch; what it raises ends this.

    Raises:
      UserError: `on_step` with `free_steps`, which are another loop.
    """
    if on_step is not None and self._options.free_steps:
      raise UserError(
        f'free_steps={self._options.free_steps}: such edits are not shown step '
        'by step; leave on_step out.'
      )
    if mask is None:
      mask = np.ones(images.shape[:3], bool)
    scales = guidance or (
      self._options.source_guidance,
      self._options.target_guidance,
    )
    key_data = np.asarray(jax.random.key_data(jax.random.key(seed)))
    numbers = key_data, np.asarray(scales, np.float32)
    for start in range(0, len(images), self.batch_size):
      part = slice(start, start + self.batch_size)
      rows = jax.tree.map(
        lambda x, part=part: put_batch_of(
          self._context, self.batch_size, x[part]
        ),
        (images, indices, conditions, mask),
      )
      given, count = (weights, *rows, numbers), len(indices[part])
      with self._context.use():
        if on_step is None:
          edited = self._jitted(*given)
        else:
          edited = self._by_steps(given, count, on_step)
      yield jax.device_get(edited)[:count]

  def _by_steps(
    self, given: tuple[Any, ...], count: int, on_step: Callable[[Step], Any]
  ) -> UInt8[Array, 'B H W C']:
    """One batch, a program for each step; `given` is that of `_edit`."""
    at = np.arange(self._steps)
    if self._options.method == 'inpaint':
      at, _ = visits(self._steps, self._options.repeats)
    times = self._times[len(self._times) - self._steps :]
    carry = self._begin(*given)
    for number, row in enumerate(at):
      carry, images = self._advance(np.int32(number), carry, *given)
      shown = jax.device_get(images)[:count]
      on_step(Step(number + 1, len(at), float(times[row]), shown))
    return images

  def _start(self, *given: Any) -> Any:
    """The carry of the method before its first step."""
    return self._integrated(lambda step, start, spans: start, *given)

  def _step(self, number, carry, *given) -> tuple[Any, UInt8[Array, 'B H W C']]:
    """One step: what is carried on, and the pictures."""

    def one(step, start, spans):
      return step(carry, jax.tree.map(lambda rows: rows[number], spans))

    after = self._integrated(one, *given)
    _, images, _, _, mask, _ = given
    return after, jnp.where(mask[..., None], to_uint8(after[0]), images)

  def _edit(self, *given: Any) -> UInt8[Array, 'B H W C']:
    _, images, _, _, mask, _ = given
    edited = self._integrated(last_state, *given)
    return jnp.where(mask[..., None], to_uint8(edited), images)

  def _integrated(
    self,
    integrate: Integrate,
    weights: PyTree,
    images: UInt8[Array, 'B H W C'],
    indices: Int[Array, 'B'],
    conditions: Conditions,
    mask: Bool[Array, 'B H W'],
    numbers: tuple[jax.Array, jax.Array],
  ) -> Any:
    """What `integrate` makes of the steps of the method."""
    key = jax.random.wrap_key_data(numbers[0])
    to_target, from_target, to_source, from_source = conditions
    target = guided_velocity(
      self._context, weights, to_target, from_target, numbers[1][1]
    )
    x = normalize(images)

    def stream(first: int) -> Callable[[Any], jax.Array]:
      scale = self._context.config.flow.noise_scale
      return lambda number: (
        scale
        * sample_noise(
          jax.random.fold_in(key, first + number), indices, self._shape
        )
      )

    noise, options = stream(0), self._options
    grid: dict[str, Any] = dict(
      steps=self._steps, solver=self._solver, integrate=integrate
    )
    if options.method == 'flowedit':
      source = guided_velocity(
        self._context, weights, to_source, from_source, numbers[1][0]
      )
      return flow_edit(
        (source, target),
        x,
        self._times,
        noise,
        average=options.average,
        free_steps=options.free_steps,
        **grid,
      )
    if options.method == 'sdedit':
      return sd_edit(target, x, noise(0), self._times, **grid)
    return inpaint(
      target,
      x,
      mask[..., None].astype(jnp.float32),
      noise(0),
      self._times,
      merge_noise=stream(_MERGE),
      back_noise=stream(_BACK),
      repeats=options.repeats,
      **grid,
    )
