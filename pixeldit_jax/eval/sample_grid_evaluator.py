"""A grid of samples as a picture, with the same seeds every time."""

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL, CaptionSampler
from pixeldit_jax.data.source import Source
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.typing import Condition, TextCondition


def grid_condition(
  config: ConfigDict, source: Source | None, count: int
) -> tuple[Condition, TextCondition | None]:
  """All classes in turn, or the texts of the first images and the null text."""
  if not config.model.text_width:
    return np.arange(count, dtype=np.int32) % config.model.num_classes, None
  pick = CaptionSampler(source, dropout=0.0)
  random = np.random.default_rng(config.seed)
  texts = [pick(source[i % len(source)], random) for i in range(count)]
  condition = TextCondition(*(np.stack([t[k] for t in texts]) for k in ARRAYS))
  null = TextCondition(*(source.arrays[k].constant(NULL) for k in ARRAYS))
  each = jax.tree.map(lambda x, y: np.broadcast_to(x, y.shape), null, condition)
  return condition, each


def make_grid_evaluator(context: RunContext, source: Source | None = None):
  """f(step, weights) -> {'samples': picture}: the same seeds every time.

  Args:
    context: of the run.
    source: the data; for a network of texts, which are those of its images.
  """
  config = context.config
  count = config.log.samples
  if config.model.text_width and source is None:
    source = open_data(config)
  conditions = grid_condition(config, source, count)
  columns = int(np.ceil(np.sqrt(count)))
  batch_size = min(count, config.sampler.batch_size)
  sampler = Sampler(context, batch_size=batch_size)

  def evaluate(step, weights):
    del step
    batches = sampler.sample(weights, np.arange(count), *conditions)
    return {'samples': image_grid(np.concatenate(list(batches)), columns)}

  return evaluate
