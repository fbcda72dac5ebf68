"""A grid of samples of the EMA during training, with the same seeds always."""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL, CaptionSampler
from pixeldit_jax.data.source import Source
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.contact_sheet import draw_classes
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.metrics.patch_borders import PixelDifferences
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.class_labels import parse_labels
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.evaluator import Image, never_stop
from pixeldit_jax.train.inputs import examples_of
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
    count, model = self._count, self._config.model
    if not model.text_width:
      return parse_labels(None, model.num_classes, count), None
    source = self._source
    assert source is not None, 'the grid of a network with texts draws them'
    examples, finish = examples_of(source)
    pick = CaptionSampler(examples, dropout=0.0)
    random = np.random.default_rng(self._config.seed)
    texts = [pick(examples[i % len(examples)], random) for i in range(count)]
    self._captions = [text['caption'] for text in texts]
    if finish:
      encoded = finish({'caption': self._captions})
    else:
      encoded = {k: np.stack([text[k] for text in texts]) for k in ARRAYS}
    condition = TextCondition(*(np.asarray(encoded[k]) for k in ARRAYS))
    null = TextCondition(*(source.arrays[k].constant(NULL) for k in ARRAYS))
    return condition, jax.tree.map(
      lambda x, each: np.broadcast_to(x, each.shape), null, condition
    )
