"""A set of samples on disk: made by all processes, held whole by none.

Image i depends on the weights, the sampler, the seed, its label or prompt and
i alone. Each process writes the shards that fall to it; the set goes on where
it was stopped.
"""

import concurrent.futures
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pixeldit_jax.config import model_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.grid import image_grid, write_png
from pixeldit_jax.images.image_sets import NpzImages
from pixeldit_jax.progress import Progress
from pixeldit_jax.sampling.checkpoint_weights import restore_run, settings_of
from pixeldit_jax.sampling.npz_writer import SHARD, SampleStore
from pixeldit_jax.sampling.prompts import Prompts
from pixeldit_jax.sampling.sampler import (
  make_sample_fn,
  sample_images,
  whole_batch,
)
from pixeldit_jax.sampling.text_sampler import make_prompt_sampler
from pixeldit_jax.typing import Int

log = logging.getLogger(__name__)

GRID = 100  # images in the picture
GRID_COLUMNS = 10
PROMPT_CELL = 128  # pixels of an image above its prompt


def parse_labels(
  text: str | None, num_classes: int, count: int
) -> Int[np.ndarray, 'B']:
  """'0,3,5-7' to `count` labels that take these classes in turn.

  Raises:
    UserError: not of this form, a class that is not there, or no images.
  """
  if count < 1:
    raise UserError(f'num_samples={count}: at least 1.')
  classes: list[int] = []
  for part in (text or f'0-{num_classes - 1}').split(','):
    first, _, last = part.partition('-')
    try:
      classes += range(int(first), int(last or first) + 1)
    except ValueError:
      raise UserError(
        f'labels={text!r}: write classes as 0,3,7 or 0-9.'
      ) from None
  wrong = [label for label in classes if not 0 <= label < num_classes]
  if wrong or not classes:
    raise UserError(
      f'labels={text!r}: {wrong or "none"} is not a class of this run; there '
      f'are 0 to {num_classes - 1}.'
    )
  return np.resize(np.asarray(classes, np.int32), count)


def make_sample_set(
  config: ConfigDict,
  workdir: str,
  path: str | os.PathLike,
  count: int,
  *,
  labels: str | None = None,
  prompts: Prompts | None = None,
  ema: bool = True,
  step: int | None = None,
  overwrite: bool = False,
) -> dict:
  """Makes or completes a set, called by all processes.

  Args:
    config: of the run, with the sampler and seed wanted.
    workdir: the run.
    path: the `.npz` to write, on a disk that all processes see.
    count: images in the set.
    labels: classes that take turns, as `parse_labels` reads them.
    prompts: of a text network; they take turns.
    ema, step: which weights.
    overwrite: whether a set of other settings at `path` makes room.

  Returns:
    What was sampled and how, as JSON values.

  Raises:
    FileNotFoundError: the run has no such checkpoint.
    UserError: labels that are not there, a size that does not divide into
      patches, or a set of other settings.
  """
  if prompts is None:
    classes = parse_labels(labels, config.model.num_classes, count)
    told = dict(labels=labels or f'0-{config.model.num_classes - 1}')
  else:
    classes = prompts.numbers(count)
    told = prompts.told
  side = config.data.resolution
  size = prompts and prompts.size or (side, side)
  model_config(config).grid(*size)  # before anything is written
  mesh, weights, step = restore_run(config, workdir, ema=ema, step=step)
  settings = settings_of(config, weights, ema=ema, step=step) | told
  shape = (*size, config.model.in_channels)
  store, pending = _open(path, count, shape, settings, overwrite)
  if pending:
    log.info(
      'Sampling %s of %s images from step %d of %s.',
      f'{sum(map(len, pending)):,}',
      f'{count:,}',
      step,
      workdir,
    )
    images_of = _make_images_of(config, mesh, weights, classes, prompts)
    _fill(store, pending, classes, whole_batch(config, mesh), images_of)
  multihost_utils.sync_global_devices(f'sampled {path}')
  if jax.process_index() == 0:
    store.finish(None if prompts else classes)
  multihost_utils.sync_global_devices(f'samples {path}')
  return dict(settings, count=count, workdir=str(workdir))


def _make_images_of(config, mesh, weights, classes, prompts):
  """f(indices) -> batches of these images of the set."""
  if prompts is None:
    sample = make_sample_fn(config, mesh)
    return lambda indices: sample_images(
      config, mesh, sample, weights, indices, classes[indices]
    )
  sample = make_prompt_sampler(
    *(config, mesh, weights, prompts.encoder),
    negative=prompts.negative,
    size=prompts.size,
  )
  return lambda indices: sample(
    [prompts.texts[k] for k in classes[indices]], indices
  )


def _open(
  path, count, shape, settings, overwrite
) -> tuple[SampleStore, list[range]]:
  """The store and its pending shards, as the first process finds them."""
  store = None
  if jax.process_index() == 0:
    options = dict(shard=SHARD, overwrite=overwrite)
    store = SampleStore(path, count, shape, settings, **options)
    missing = store.pending()
  # The others open what is there then: nothing for them to remove.
  multihost_utils.sync_global_devices(f'opened {path}')
  if store is None:
    store = SampleStore(path, count, shape, settings, shard=SHARD)
    missing = []
  spans = store.spans()
  mask = np.array([span in missing for span in spans])
  # Disks may show the processes different files: they must agree.
  mask = multihost_utils.broadcast_one_to_all(mask)
  return store, [span for span, wanted in zip(spans, mask) if wanted]


def _fill(store, pending, classes, size, images_of):
  """Samples the pending shards, each written by one of the processes."""
  # Batches begin where they do in an unbroken run: equal to the last bit.
  wanted = np.concatenate([np.asarray(span) for span in pending])
  indices = np.unique(wanted // size)[:, None] * size + np.arange(size)
  indices = indices[indices < len(classes)]
  batches = _watched(images_of(indices), Progress('Sampled', len(indices)))
  parts = _cut(batches, indices, pending)
  for number, (span, images) in enumerate(parts):
    if number % jax.process_count() == jax.process_index():
      store.write(span, images)


def _watched(batches: Iterator[np.ndarray], report) -> Iterator[np.ndarray]:
  """The batches; how many images they were is reported as they come."""
  done = 0
  for images in batches:
    done += len(images)
    report(done)
    yield images


def _cut(
  batches: Iterator[np.ndarray],
  indices: Int[np.ndarray, 'N'],
  spans: list[range],
) -> Iterator[tuple[range, np.ndarray]]:
  """Cuts the images of each span out of a stream of those of `indices`."""
  waiting, start = next(batches), 0
  for span in spans:
    first, last = np.searchsorted(indices, (span.start, span.stop))
    while start + len(waiting) < last:
      waiting = np.concatenate([waiting, next(batches)])
    yield span, waiting[first - start : last - start]
    waiting, start = waiting[last - start :], last


def write_grid(
  path: str | os.PathLike,
  npz: str | os.PathLike,
  prompts: Prompts | None = None,
):
  """Draws the first images of a set, with the prompts below if there are."""
  images = next(NpzImages(npz).batches(GRID))
  if prompts is None:
    picture = image_grid(images, GRID_COLUMNS)
  else:
    titles = [prompts.texts[k] for k in prompts.numbers(len(images))]
    columns = min(GRID_COLUMNS, math.ceil(math.sqrt(len(images))))
    sheet = contact_sheet.draw(
      images, titles, columns, cell=PROMPT_CELL, lines=3
    )
    picture = np.asarray(sheet)
  write_png(path, picture)
  log.info('Wrote %s', path)


def write_pngs(folder: str | os.PathLike, npz: str | os.PathLike):
  """Writes the images of a set as 000000.png and on; the folder comes whole."""
  from PIL import Image

  folder = pathlib.Path(folder)
  beside = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(beside, ignore_errors=True)
  beside.mkdir(parents=True)
  images = NpzImages(npz)
  report, done = Progress('Wrote', images.count), 0

  def write(numbered):
    number, image = numbered
    Image.fromarray(image).save(beside / f'{number:06d}.png')

  with concurrent.futures.ThreadPoolExecutor() as pool:
    for batch in images.batches(256):
      list(pool.map(write, enumerate(batch, start=done)))
      done += len(batch)
      report(done)
  shutil.rmtree(folder, ignore_errors=True)
  beside.replace(folder)
