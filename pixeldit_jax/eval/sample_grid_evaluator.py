"""A grid of samples of the EMA during training, with the same seeds always."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from pixeldit_jax.data.source import Source
from pixeldit_jax.eval.evaluation_conditions import EvaluationConditions
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.contact_sheet import draw_classes
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.metrics.patch_borders import PixelDifferences
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.evaluator import Image, never_stop
from pixeldit_jax.train.run.trained_on import read_class_names
from pixeldit_jax.typing import Condition, PyTree, TextCondition


class SampleGridEvaluator:
  """An `Evaluator` that draws all classes in turn, or texts of the data.

  Attributes:
    every: steps between two grids.
  """

  def __init__(
    self,
    context: RunContext,
    workdir: str | None = None,
    source: Source | None = None,
  ):
    """Prepares the sampler.

    Args:
      context: of the run.
      workdir: its folder, with the names of classes that label the rows.
      source: its data, whose first texts are drawn; a network of classes needs
        none.
    """
    config = context.config
    self._workdir, self._source = workdir, source
    self.every = config.log.samples_every
    self._config, self._count = config, config.log.samples
    batch_size = min(self._count, config.sampler.batch_size)
    self._sampler = Sampler(context, batch_size=batch_size)
    self._captions: list[str] = []

  def __call__(
    self,
    step: int,
    ema_params: PyTree,
    check_stop: Callable[[], None] = never_stop,
  ) -> Iterator[tuple[str, float | Image]]:
    """Yields a picture, 'samples', and how much its patches are seen."""
    del step
    indices = np.arange(self._count)
    batches = self._sampler.sample(ema_params, indices, *self._conditions)
    drawn = []
    for batch in batches:
      drawn.append(batch)
      check_stop()
    columns = math.ceil(math.sqrt(self._count))
    images = np.concatenate(drawn)
    labels, names = self._conditions[0], self._class_names
    if names and isinstance(labels, np.ndarray):
      yield 'samples', draw_classes(images, labels, names)
    elif any(self._captions):
      yield 'samples', contact_sheet.draw(images, self._captions, lines=3)
    else:
      yield 'samples', image_grid(images, columns)
    patch = self._config.model.patch_size
    ratio = PixelDifferences.of(images).border_ratio(patch)
    if ratio is not None:
      yield 'patch_borders', ratio

  @functools.cached_property
  def _class_names(self) -> tuple[str, ...]:
    """Read once training has begun, which writes them."""
    return read_class_names(self._workdir) if self._workdir else ()

  @functools.cached_property
  def _conditions(self) -> tuple[Condition, TextCondition | None]:
    """Labels; or texts and the null text."""
    of_data = EvaluationConditions(self._config, self._source)
    indices = np.arange(self._count)
    self._captions = of_data.captions(indices)
    return of_data.of(indices)
