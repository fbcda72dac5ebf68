"""Draw and edit from Python: `load` a network, and call its `Model`.

import pixeldit_jax as pd
model = pd.load('runs/mnist')
images = model.sample(labels=[3, 7], num=10, seed=1)
images.images[0].save('three.png')
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax import compile_cache, sharding
from pixeldit_jax.config import get_config, model_config
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lazy import nested
from pixeldit_jax.convert.official import native_of
from pixeldit_jax.editing.edit_set import Edit
from pixeldit_jax.editing.editor import Conditions, EditOptions, Editor
from pixeldit_jax.editing.masks import read_mask
from pixeldit_jax.editing.pictures import read_pictures
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.pixeldit import abstract_model, axes_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.checked_numbers import MOST_SEED, finite, integer
from pixeldit_jax.sampling.conditions import ConditionReader, Wanted
from pixeldit_jax.sampling.guided_velocity import (
  attention_maps,
  guided_velocity,
)
from pixeldit_jax.sampling.sampler import Numbers, Sampler, Step
from pixeldit_jax.train.checkpoint import released
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run import workdir
from pixeldit_jax.typing import (
  AnyArray,
  Array,
  Float,
  PyTree,
)

OF_SAMPLER = ('steps', 'solver', 'interval', 'shift')
OF_METHOD = ('average', 'free_steps', 'repeats')


class Images(np.ndarray):
  """Images, uint8 [N, H, W, C]: an array, which also gives Pillow's form."""

  @property
  def images(self) -> list[Image.Image]:
    """The images as Pillow's, which a notebook shows and which save files."""
    pixels = np.asarray(self)
    if self.shape[-1] == 1:
      pixels = pixels[..., 0]
    return [Image.fromarray(image) for image in pixels]


def load(
  where: str | os.PathLike,
  *,
  step: int | None = None,
  ema: bool = True,
  config: ConfigDict | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> 'Model':
  """Reads a network onto all devices.

  Args:
    where: the folder of a run, or a released file, as
      'hf://nvidia/PixelDiT-ImageNet/imagenet256_pixeldit_xl_epoch320.ckpt', or
      only the repository, where it has one file of weights.
    step: checkpoint of a run; the newest by default.
    ema: the average of the weights, or those last trained.
    config: of a released file, whose shapes tell the network and not the
      sampler: `pixeldit_jax.configs.imagenet256.get_config('preset=ep320')`.
    devices: those to use, all by default.

  Raises:
    MissingFileError: there is no such run, checkpoint or file.
    UserError: a damaged file, or a configuration of another network.
  """
  compile_cache.enable()
  if not isinstance(where, str | os.PathLike):
    raise UserError(
      f'load of {where!r}: expected the folder of a run, or a released file.'
    )
  if step is not None:
    step = integer('step', step, 0)
  where = os.fspath(where)
  if (epath.Path(where) / 'config.json').is_file():
    if config is not None:
      raise UserError(f'{where} is a run, which has its own config: leave it.')
    stored = get_config()
    stored.update(workdir.read_config(where))  # JSON has lists for tuples
    context = RunContext.build(stored, devices)
    weights, ref = restore_weights(
      CheckpointRef(where, step, ema),
      context.model,
      context.mesh,
      context.rules,
    )
    return Model(context, weights, ref)
  if not where.startswith('hf://') and not os.path.isfile(where):
    workdir.read_config(where)  # says what is missing
  if step is not None:
    raise UserError(f'step={step}: {where} is a file; only runs have steps.')
  config = config or released.infer_run(where, {}, 'ema' if ema else 'raw')
  context = RunContext.build(config, devices)
  return Model(context, _released_weights(where, ema, context))


def _released_weights(path: str, ema: bool, context: RunContext) -> PyTree:
  """The weights of a released file, on the mesh."""
  try:
    tensors = native_of(read_weights(path, ema), model_config(context.config))
  except ValueError as error:
    raise UserError(f'{path} is not of config.model: {error}') from error
  axes = axes_of(abstract_model(context.model))
  places = sharding.weight_shardings(axes, context.mesh, context.rules)
  return jax.tree.map(jax.device_put, nested(dict(tensors.items())), places)


class Model:
  """A network that draws, on all devices.

  Programs are compiled for the first call of a size, a number of images and a
  solver with its steps, and kept; seeds, labels, prompts and guidance (other
  than 1) change nothing of them.

  Attributes:
    context: configuration, network and mesh.
    weights: on the mesh.
    ref: the checkpoint, of a run.
    conditions: reads labels and prompts.
  """

  def __init__(
    self,
    context: RunContext,
    weights: PyTree,
    ref: CheckpointRef | None = None,
  ):
    self.context, self.weights, self.ref = context, weights, ref
    self.conditions = ConditionReader(context, ref.workdir if ref else None)
    self._programs: dict[Any, Any] = {}

  @property
  def config(self) -> ConfigDict:
    """The configuration of the run; `config.sampler` has the defaults."""
    return self.context.config

  @property
  def class_names(self) -> tuple[str, ...]:
    """By label; () where the network has prompts, or its classes no names."""
    return self.conditions.class_names

  def sample(
    self,
    labels: Wanted | None = None,
    prompts: Sequence[str] | str | None = None,
    *,
    num: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    negative: str = '',
    on_step: Callable[[Step], Any] | None = None,
    **sampler: Any,
  ) -> Images:
    """Draws images.

    Image i depends on the seed, its label or prompt and i: these are the images
    of `pixeldit sample` with as many.

    Args:
      labels: classes, by number or name, used in turn; all by default.
      prompts: of a network of texts, used in turn.
      num: images; by default one of each label or prompt.
      seed: of the noise.
      guidance: the scale; the run's by default.
      height, width: pixels; as trained by default.
      negative: the prompt that guidance leads away from.
      on_step: called with a `Step` after each one of each batch, for a
        preview; an exception that it raises stops the drawing.
      sampler: `steps`, `solver`, `interval`, `shift`; the run's by default.

    Returns:
      uint8 [num, height, width, C].

    Raises:
      UserError: a class or an option that does not exist, or a size that does
        not divide into patches.
    """
    wanted = self._wanted(labels, prompts)
    num = len(wanted) if num is None else integer('num', num, 1)
    seed = integer('seed', seed, 0, MOST_SEED)
    guidance = guidance if guidance is None else finite('guidance', guidance)
    program = self._sampler(
      self._size(height, width),
      min(num, self.config.sampler.batch_size),
      _known(sampler) | dict(guidance=guidance),
    )
    numbers = program.numbers(seed, guidance)
    batches: list[np.ndarray] = []
    for start in range(0, num, program.batch_size):
      indices = np.arange(start, min(start + program.batch_size, num))
      chosen = [wanted[i % len(wanted)] for i in indices]
      given = self.weights, indices, *self.conditions(chosen, negative)
      if on_step is None:
        batches += program.sample(*given, numbers=numbers)
        continue
      for step in program.sample_by_steps(*given, numbers=numbers):
        on_step(step)
      batches.append(step.images)
    return np.concatenate(batches).view(Images)

  def edit(
    self,
    pictures: Any,
    target: Wanted | None = None,
    source: Wanted | None = None,
    *,
    method: str = 'flowedit',
    strength: float = 0.7,
    source_guidance: float = 1.5,
    guidance: float | None = None,
    mask: Any = None,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    negative: str = '',
    on_step: Callable[[Step], Any] | None = None,
    **options: Any,
  ) -> Images:
    """Changes pictures; outside of the mask they keep their pixels.

    Args:
      pictures: uint8 [N, H, W, 3], Pillow's or a path, or several.
      target: labels or prompts of what is wanted, used in turn.
      source: the same of what the pictures show, which FlowEdit leaves.
      method: 'flowedit', 'sdedit' (the picture made noisy and drawn from there;
        with `target` what it shows, variations of it) or 'inpaint'.
      strength: the share of the steps that are done; less keeps more.
      source_guidance, guidance: scales towards source and target.
      mask: bool [H, W] or [N, H, W], True where pixels may change; or a file,
        'box:..' or 'colour:..', see `editing.masks.read_mask`.
      seed: of the noise.
      height, width: pixels that pictures are scaled and cut to; as trained by
        default. With more than a picture has, SDEdit draws new details.
      negative, on_step: as for `sample`; the images of a step are what it made.
      options: `average` and `free_steps` of FlowEdit, `repeats` of inpainting,
        see `EditOptions`; and as for `sample`, of the sampler.

    Raises:
      UserError: what cannot be; see `EditOptions` and `read_pictures`.
    """
    size = self._size(height, width)
    seed = integer('seed', seed, 0, MOST_SEED)
    scale = self.config.sampler.guidance if guidance is None else guidance
    of_method = {k: options.pop(k) for k in OF_METHOD if k in options}
    how = EditOptions(method, strength, source_guidance, scale, **of_method)
    images = read_pictures(pictures, size)
    editor = self.editor(how, size, len(images), **_known(options))
    count = len(images)
    to, away = (self.conditions.in_turn(w, count) for w in (target, source))
    edited = editor.edit(
      self.weights,
      images,
      np.arange(count),
      (*self.conditions(to, negative), *self.conditions(away, negative)),
      _read_masks(mask, images, method),
      seed=seed,
      guidance=(how.source_guidance, how.target_guidance),
      on_step=on_step,
    )
    return np.concatenate(list(edited)).view(Images)

  def inpaint(
    self,
    pictures: Any,
    mask: Any,
    target: Wanted | None = None,
    *,
    repeats: int = 5,
    solver: str = 'euler',
    strength: float = 1.0,
    **options: Any,
  ) -> Images:
    """Draws the part of pictures where the mask is True; the rest stays.

    Args:
      pictures, mask, target, strength, options: see `edit`.
      repeats: RePaint's, of each step: more agree better with the rest.
      solver: with repeats, 'euler' or 'heun'.
    """
    return self.edit(
      pictures,
      target,
      method='inpaint',
      mask=mask,
      repeats=repeats,
      solver=solver,
      strength=strength,
      **options,
    )

  def editor(
    self, options: EditOptions, size: tuple[int, int], count: int, **sampler
  ) -> Editor:
    """The editor of some options, kept with its program.

    Args:
      options: the method.
      size: height and width of the pictures.
      count: of the pictures; they are edited in batches of the sampler's size.
      sampler: other values of `config.sampler`.
    """
    batch_size = min(count, self.config.sampler.batch_size)
    compiled = dataclasses.replace(
      options, source_guidance=0.0, target_guidance=0.0
    )
    key = ('edit', compiled, size, batch_size, *map(str, sampler.values()))
    if key not in self._programs:
      self._programs[key] = Editor(
        self.context_with(**sampler), options, size=size, batch_size=batch_size
      )
    return self._programs[key]

  def edit_conditions_of(
    self, edits: Sequence[Edit], negative: str
  ) -> Callable[[Sequence[Edit]], Conditions]:
    """Conditions of lines of an edit set, after a check of all of them.

    Raises:
      UserError: a class that does not exist.
    """

    def wanted(text: str) -> int | str | None:
      return self.conditions.read(text)[0] if text else None

    for edit in edits:
      wanted(edit.target), wanted(edit.source)
    return lambda some: (
      *self.conditions([wanted(e.target) for e in some], negative),
      *self.conditions([wanted(e.source) for e in some], negative),
    )

  def velocity(
    self,
    x: Float[AnyArray, 'B H W C'],
    t: Float[AnyArray, '#B'] | Sequence[float] | float,
    condition: Wanted | None,
    guidance: float = 1.0,
  ) -> Float[Array, 'B H W C']:
    """The velocity of noisy images, from noise at t=0 to data at t=1.

    It is what samples follow: of a run with `sampler.shift_patches`, that of
    images whose patches are moved.

    Args:
      x: noisy images; data are in [-1, 1].
      t: their times; one number where `guidance` is not 1.
      condition: what each is to show, labels or prompts, in turn; None is the
        null class or no text.
      guidance: the scale, inside the interval of the run.
    """
    self._check_noisy(x, t)
    program = self._kept('velocity', self._velocity_program)
    chosen = self.conditions.in_turn(condition, len(x))
    # While gradients are taken, the mesh cannot be set; one device does it.
    traced = isinstance(x, jax.core.Tracer)
    with contextlib.nullcontext() if traced else self.context.use():
      return program(
        self.weights,
        jnp.asarray(x, jnp.float32),
        jnp.asarray(t, jnp.float32),
        *self.conditions(chosen),
        np.float32(guidance),
        guidance == 1,
      )

  def attention(
    self,
    x: Float[AnyArray, 'B H W C'],
    t: Float[AnyArray, '#B'] | Sequence[float] | float,
    condition: Wanted | None,
  ) -> list[Float[np.ndarray, 'B N _ _']]:
    """Where each block looks: its weights of attention, without guidance.

    One device computes them. Rows of a map [B, heads, queries, keys] sum to 1.
    Queries and keys are the patches, row by row; of a network of texts, the
    blocks of the patch path have its tokens before the patches.

    Args:
      x, t, condition: see `velocity`.

    Returns:
      A map of each block, `config.model.patch_depth` of the patch path first.
    """
    self._check_noisy(x, t)
    device = self.context.mesh.devices.flat[0]
    program = self._kept(
      'attention',
      lambda: jax.jit(
        lambda weights, *given: attention_maps(self.context, weights, *given)
      ),
    )
    wanted, _ = self.conditions(self.conditions.in_turn(condition, len(x)))
    given = wanted, np.asarray(x, np.float32), np.asarray(t, np.float32)
    maps = program(*jax.device_put((self.weights, *given), device))
    return jax.device_get(maps)

  def _check_noisy(self, x: Any, t: Any) -> None:
    """Raises UserError where images or times are not of the network."""
    channels, shape = self.config.model.in_channels, np.shape(x)
    if len(shape) != 4 or shape[3] != channels or not shape[0]:
      raise UserError(
        f'x of shape {shape}: expected noisy images [B, H, W, {channels}].'
      )
    self.context.model.grid(*shape[1:3])
    try:
      times = jnp.shape(jnp.asarray(t, jnp.float32))
    except (TypeError, ValueError):
      times = None
    if times not in ((), (1,), shape[:1]):
      raise UserError(
        f't={t!r}: expected one time, or one for each of {shape[0]} images.'
      )

  def _wanted(self, labels: Wanted | None, prompts) -> list[Any]:
    """The labels or prompts, checked."""
    texts = self.config.model.text_width
    if (labels if texts else prompts) is not None:
      raise UserError(
        'labels= to a network of texts: give prompts=.'
        if texts
        else 'prompts= to a network of classes: give labels=.'
      )
    if texts and prompts is None:
      raise UserError('prompts= is missing: the network is of texts.')
    wanted = prompts if texts else labels
    if wanted is None:
      wanted = range(self.config.model.num_classes)
      if not wanted:  # of a network without classes
        return [None]
    return self.conditions.read(wanted)

  def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
    """A program that is made once."""
    if key not in self._programs:
      self._programs[key] = make()
    return self._programs[key]

  def context_with(self, **options: Any) -> RunContext:
    """The run's context with other options of the sampler; None keeps one."""
    changed = {k: v for k, v in options.items() if v is not None}
    if not changed:
      return self.context
    config = self.config.copy_and_resolve_references()
    for name, value in changed.items():
      try:
        config.sampler[name] = value
      except TypeError as error:
        raise UserError(
          f'{name}={value!r}: expected a value such as '
          f'{config.sampler[name]!r}, that of the run.'
        ) from error
    return RunContext.build(config, list(self.context.mesh.devices.flat))

  def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width, as trained by default."""
    side = self.config.data.resolution
    return (
      side if height is None else integer('height', height, 1),
      side if width is None else integer('width', width, 1),
    )

  def _sampler(self, size, batch_size: int, options: dict[str, Any]) -> Sampler:
    scale = options.pop('guidance')
    unguided = (self.config.sampler.guidance if scale is None else scale) == 1
    if unguided or self.config.sampler.guidance == 1:
      options['guidance'] = scale
    key = ('sample', size, batch_size, unguided, *map(str, options.values()))
    return self._kept(
      key,
      lambda: Sampler(
        self.context_with(**options), size=size, batch_size=batch_size
      ),
    )

  def _velocity_program(self) -> Any:
    def velocity(weights, x, t, condition, away, guidance, unguided):
      scale = 1 if unguided else guidance
      return guided_velocity(self.context, weights, condition, away, scale)(
        x, t
      )

    return jax.jit(velocity, static_argnums=6)


def _known(options: dict[str, Any]) -> dict[str, Any]:
  """Options of the sampler, None where they are the run's.

  Raises:
    UserError: one that there is not.
  """
  if unknown := options.keys() - set(OF_SAMPLER):
    raise UserError(
      f'{", ".join(sorted(unknown))}: no option here; those of the sampler are '
      f'{", ".join(OF_SAMPLER)}, those of an edit {", ".join(OF_METHOD)}.'
    )
  return {name: options.get(name) for name in OF_SAMPLER}


def _read_masks(mask: Any, images: np.ndarray, method: str) -> Any:
  """A mask for each image, or None where all of it may change."""
  if mask is None:
    if method == 'inpaint':
      raise UserError('inpainting needs a mask, of what is to be drawn: mask=.')
    return None
  if isinstance(mask, str | os.PathLike):
    return np.stack([read_mask(os.fspath(mask), image) for image in images])
  mask = np.asarray(mask)
  N, H, W, _ = images.shape
  if mask.dtype != bool or mask.shape not in ((H, W), (1, H, W), (N, H, W)):
    raise UserError(
      f'mask of shape {mask.shape} and {mask.dtype}: expected bool [{H}, {W}] '
      f'or [{N}, {H}, {W}], True where pixels may change.'
    )
  return np.broadcast_to(mask, images.shape[:3])


__all__ = ['Images', 'Model', 'Numbers', 'Step', 'load']
