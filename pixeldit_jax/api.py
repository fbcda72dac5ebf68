"""Draw and edit from Python: `load` a network, and call its `Model`.

import pixeldit_jax as pd
model = pd.load('runs/mnist')
images = model.sample(labels=[3, 7], num=10, seed=1)
images.images[0].save('three.png')
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config, model_config
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lazy import nested
from pixeldit_jax.convert.official import native_of
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.pixeldit import abstract_model, axes_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.class_labels import read_class_names, read_labels
from pixeldit_jax.sampling.guided_velocity import guided_velocity
from pixeldit_jax.sampling.sampler import Numbers, Sampler, Step
from pixeldit_jax.train.checkpoint import released
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run import workdir
from pixeldit_jax.typing import (
  AnyArray,
  Array,
  Condition,
  Float,
  PyTree,
  TextCondition,
)

# What shows an image of an array: a class by number or name, or a prompt.
Wanted = Sequence[int | str] | int | str
# An option of the sampler, None for that of the run.
Options = Mapping[str, Any]


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
      'hf://nvidia/PixelDiT-ImageNet/imagenet256_pixeldit_xl_epoch320.ckpt'.
    step: checkpoint of a run; the newest by default.
    ema: the average of the weights, or those last trained.
    config: of a released file, whose shapes tell the network and not the
      sampler: `pixeldit_jax.configs.imagenet256.get_config('preset=ep320')`.
    devices: those to use, all by default.

  Raises:
    MissingFileError: there is no such run, checkpoint or file.
    UserError: a damaged file, or a configuration of another network.
  """
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
    class_names: by label; () where the network has prompts, or no names.
  """

  def __init__(
    self,
    context: RunContext,
    weights: PyTree,
    ref: CheckpointRef | None = None,
  ):
    self.context, self.weights, self.ref = context, weights, ref
    self.class_names = read_class_names(ref.workdir) if ref else ()
    self._programs: dict[Any, Any] = {}
    self._encoder: Any = None

  @property
  def config(self) -> ConfigDict:
    """The configuration of the run; `config.sampler` has the defaults."""
    return self.context.config

  def sample(
    self,
    labels: Wanted | None = None,
    prompts: Sequence[str] | str | None = None,
    *,
    num: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] | None = None,
    solver: str | None = None,
    shift: float | None = None,
    height: int | None = None,
    width: int | None = None,
    negative: str = '',
    on_step: Callable[[Step], Any] | None = None,
  ) -> Images:
    """Draws images.

    Image i depends on the seed, its label or prompt and i: these are the images
    of `pixeldit sample` with as many.

    Args:
      labels: classes, by number or name, used in turn; all by default.
      prompts: of a network of texts, used in turn.
      num: images; by default one of each label or prompt.
      seed: of the noise.
      steps, guidance, interval, solver, shift: of the sampler; the run's by
        default.
      height, width: pixels; as trained by default.
      negative: the prompt that guidance leads away from.
      on_step: called with a `Step` after each one of each batch, for a
        preview; an exception that it raises stops the drawing.

    Returns:
      uint8 [num, height, width, C].

    Raises:
      UserError: a class or an option that does not exist, or a size that does
        not divide into patches.
    """
    wanted = self._wanted(labels, prompts)
    num = len(wanted) if num is None else num
    if num < 1:
      raise UserError(f'num={num}: at least 1.')
    sampler = self._sampler(
      (height, width),
      min(num, self.config.sampler.batch_size),
      steps=steps,
      guidance=guidance,
      interval=interval,
      solver=solver,
      shift=shift,
    )
    numbers = sampler.numbers(seed, guidance)
    batches = []
    for start in range(0, num, sampler.batch_size):
      indices = np.arange(start, min(start + sampler.batch_size, num))
      chosen = [wanted[i % len(wanted)] for i in indices]
      conditions = self.conditions(chosen, negative)
      if on_step is None:
        draw = sampler.sample(
          self.weights, indices, *conditions, numbers=numbers
        )
        batches += draw
        continue
      for step in sampler.sample_by_steps(
        self.weights, indices, *conditions, numbers=numbers
      ):
        on_step(step)
      batches.append(step.images)
    return np.concatenate(batches).view(Images)

  def velocity(
    self,
    x: Float[AnyArray, 'B H W C'],
    t: Float[AnyArray, '#B'] | float,
    condition: Wanted | None,
    guidance: float = 1.0,
  ) -> Float[Array, 'B H W C']:
    """The velocity of noisy images, from noise at t=0 to data at t=1.

    Args:
      x: noisy images; data are in [-1, 1].
      t: their times; one number where `guidance` is not 1.
      condition: what each is to show, labels or prompts, in turn; None is the
        null class or no text.
      guidance: the scale, inside the interval of the run.
    """
    program = self._kept('velocity', self._velocity_program)
    wanted = [None] if condition is None else self._wanted_any(condition)
    chosen = [wanted[i % len(wanted)] for i in range(len(x))]
    with self.context.use():
      return program(
        self.weights,
        np.asarray(x, np.float32),
        np.asarray(t, np.float32),
        *self.conditions(chosen),
        np.float32(guidance),
        guidance == 1,
      )

  def conditions(
    self, wanted: Sequence[int | str | None], negative: str = ''
  ) -> tuple[Condition, TextCondition | None]:
    """What the network is told, and what guidance leads away from.

    Args:
      wanted: a label or a prompt for each image; None is the null class, or no
        text.
      negative: see `sample`.
    """
    if not self.config.model.text_width:
      null = self.config.model.num_classes
      known = [null if label is None else label for label in wanted]
      return np.asarray(known, np.int32), None
    encoder = self._text_encoder()
    away = encoder.encode([negative], negative=True)
    condition = encoder.encode([str(text or '') for text in wanted])
    return condition, jax.tree.map(
      lambda row: np.repeat(row, len(wanted), axis=0), away
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
    if labels is None and not texts:
      return list(range(self.config.model.num_classes))
    return self._wanted_any(prompts if texts else labels)

  def _wanted_any(self, wanted: Any) -> list[Any]:
    """Checked, a single one too."""
    if isinstance(wanted, str) or np.ndim(wanted) == 0:
      wanted = [wanted]
    if not len(wanted):
      raise UserError('no label and no prompt: give at least one, or None.')
    if self.config.model.text_width:
      return [str(text) for text in wanted]
    return read_labels(wanted, self.config.model.num_classes, self.class_names)

  def _text_encoder(self) -> Any:
    """The encoder of the run, loaded once."""
    if self._encoder is None:
      from pixeldit_jax.encoders.text import open_encoder

      if self.ref is None:
        raise UserError(
          'a released file of texts has no encoder: make a workdir of it with '
          'pixeldit convert --text_encoder=, and load that.'
        )
      meta = workdir.read_text_encoder(self.ref.workdir)
      self._encoder = open_encoder(meta)
    return self._encoder

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
    with config.unlocked():
      config.sampler.update(changed)
    return RunContext.build(config, self.context.mesh.devices.ravel())

  def _sampler(self, size, batch_size: int, **options: Any) -> Sampler:
    side = self.config.data.resolution
    size = tuple(side if n is None else n for n in size)
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


__all__ = ['Images', 'Model', 'Numbers', 'Step', 'load']
