"""Samples as a picture: a grid with a row or column for each class."""

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL, CaptionSampler
from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.sampling.sampler import make_sample_fn, sample_images
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.typing import PyTree


def grid_condition(config: ConfigDict, count: int) -> PyTree:
  """All classes in turn, or the texts of the data's first images."""
  if not config.model.text_width:
    return np.arange(count, dtype=np.int32) % config.model.num_classes
  source = open_data(config)
  pick = CaptionSampler(source, dropout=0.0)
  random = np.random.default_rng(config.seed)
  texts = [pick(source[i % len(source)], random) for i in range(count)]
  condition = {name: np.stack([t[name] for t in texts]) for name in ARRAYS}
  for name, negative in zip(ARRAYS, ('negative', 'negative_mask')):
    null = source.arrays[name].constant(NULL)
    condition[negative] = np.broadcast_to(null, condition[name].shape)
  return condition


def make_grid_evaluator(config: ConfigDict, mesh: Mesh):
  """f(step, weights) -> {'samples': picture}: the same seeds every time."""
  count = config.log.samples
  condition = grid_condition(config, count)
  columns = int(np.ceil(np.sqrt(count)))
  batch_size = min(count, config.sampler.batch_size)
  sample = make_sample_fn(config, mesh)

  def evaluate(step, weights):
    del step
    indices = np.arange(count)
    batches = sample_images(
      config, mesh, sample, weights, indices, condition, batch_size
    )
    return {'samples': image_grid(np.concatenate(list(batches)), columns)}

  return evaluate
