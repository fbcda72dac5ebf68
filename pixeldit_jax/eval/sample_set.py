"""A set of samples on disk: single images, an `.npz`, and a grid."""

import logging
import os
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.eval.sample_grid import image_grid, write_png
from pixeldit_jax.eval.sampling import make_sample_fn, sample_images
from pixeldit_jax.train.checkpoint import restore_weights
from pixeldit_jax.train.config import model_config
from pixeldit_jax.typing import Int

log = logging.getLogger(__name__)

GRID = 100  # images in the picture
GRID_COLUMNS = 10


def parse_labels(
  text: str | None, num_classes: int, count: int
) -> Int[np.ndarray, 'B']:
  """'0,3,5-7' to `count` labels that take these classes in turn.

  Raises:
    ValueError: not of this form, a class that is not there, or no images.
  """
  if count < 1:
    raise ValueError(f'num_samples={count}: at least 1.')
  classes: list[int] = []
  for part in (text or f'0-{num_classes - 1}').split(','):
    first, _, last = part.partition('-')
    try:
      classes += range(int(first), int(last or first) + 1)
    except ValueError:
      raise ValueError(
        f'labels={text!r}: write classes as 0,3,7 or 0-9.'
      ) from None
  wrong = [label for label in classes if not 0 <= label < num_classes]
  if wrong or not classes:
    raise ValueError(
      f'labels={text!r}: {wrong or "none"} is not a class of this run; there '
      f'are 0 to {num_classes - 1}.'
    )
  return np.resize(np.asarray(classes, np.int32), count)


def write_sample_set(
  config: ConfigDict,
  workdir: str,
  out: str,
  labels: Int[np.ndarray, 'B'],
  *,
  ema: bool = True,
  step: int | None = None,
) -> pathlib.Path:
  """Samples one image for each label and writes them.

  Args:
    config: of the run, with the sampler and seed wanted.
    workdir: the run.
    out: folder for samples.png, images/ and samples.npz.
    labels: a class for each image.
    ema, step: which weights.

  Returns:
    The path of the grid.

  Raises:
    FileNotFoundError: the run has no such checkpoint.
  """
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  weights, step = restore_weights(
    workdir, model_config(config), mesh, ema=ema, step=step, rules=rules
  )
  log.info('Sampling from step %d of %s.', step, workdir)
  folder = pathlib.Path(out)
  started, images = time.perf_counter(), []
  sample = make_sample_fn(config, mesh)
  for batch in sample_images(
    sample, weights, labels, config.sampler.batch_size, mesh, rules=rules
  ):
    images.append(batch)
    done = sum(map(len, images))
    rate = done / (time.perf_counter() - started)
    log.info('%d of %d images, %.1f images/s', done, len(labels), rate)
  images = np.concatenate(images)
  grid = folder / 'samples.png'
  if jax.process_index() == 0:
    _write(folder, images, labels)
    write_png(grid, image_grid(images[:GRID], GRID_COLUMNS))
    log.info('Wrote %s', grid)
  return grid


def _write(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray):
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  for i, image in enumerate(images):
    write_png(folder / 'images' / f'{i:06d}.png', image)
  beside = folder / 'samples.npz.tmp'
  with beside.open('wb') as file:
    np.savez(file, arr_0=images, arr_1=labels)
  os.replace(beside, folder / 'samples.npz')
