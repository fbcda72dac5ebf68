"""Samples as a picture: a grid with a row or column for each class."""

import os
import pathlib

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax.data.embedded_text import ARRAYS, NULL, PickText
from pixeldit_jax.eval.sampling import make_sample_fn, sample_images
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.typing import PyTree, UInt8

SMALL = 96  # images below this side are enlarged to be looked at


def image_grid(
  images: UInt8[np.ndarray, 'B H W C'], columns: int
) -> UInt8[np.ndarray, 'height width 3']:
  """Images row by row, with thin white lines between them.

  Small images are enlarged by a whole factor. The last row may be short.
  """
  B, H, W, C = images.shape
  zoom = max(1, SMALL // max(H, W))
  images = images.repeat(zoom, 1).repeat(zoom, 2)
  rows, gap = -(-B // columns), 2
  height, width = H * zoom + gap, W * zoom + gap
  grid = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
  for i, image in enumerate(images):
    top, left = gap + i // columns * height, gap + i % columns * width
    grid[top : top + H * zoom, left : left + W * zoom] = image
  return grid


def write_png(path: str | pathlib.Path, image: UInt8[np.ndarray, 'H W C']):
  """Writes beside and renames, so that a picture is whole or not there."""
  path = pathlib.Path(path)
  beside = path.with_name(path.name + '.tmp')
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(pixels).save(beside, format='png')
  os.replace(beside, path)


def grid_condition(config: ConfigDict, count: int) -> PyTree:
  """All classes in turn, or the texts of the data's first images."""
  if not config.model.text_width:
    return np.arange(count, dtype=np.int32) % config.model.num_classes
  source = open_data(config)
  pick = PickText(source, dropout=0.0)
  random = np.random.default_rng(config.seed)
  texts = [pick(source[i % len(source)], random) for i in range(count)]
  condition = {name: np.stack([t[name] for t in texts]) for name in ARRAYS}
  for name, negative in zip(ARRAYS, ('negative', 'negative_mask')):
    null = source.stored[name].constant(NULL)
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
