"""A set of samples on disk, made by all processes; none holds all of it.

Image i depends only on the weights, the sampler, the seed, its label or prompt
and i. The processes write the shards in turn; a set that was stopped is
continued.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixeldit_jax import outputs
from pixeldit_jax.progress import Progress
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.checkpoint_weights import image_settings
from pixeldit_jax.sampling.class_labels import parse_labels
from pixeldit_jax.sampling.npz_writer import SHARD, SampleStore
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.sampling.set_pictures import write_grid, write_pngs
from pixeldit_jax.sampling.text_sampler import Prompts, TextSampler
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.trained_on import read_class_names
from pixeldit_jax.typing import Int, PyTree, UInt8

log = logging.getLogger(__name__)


def make_sample_set(
  context: RunContext,
  ref: CheckpointRef,
  path: str | os.PathLike,
  count: int,
  *,
  labels: str | None = None,
  prompts: Prompts | None = None,
  size: tuple[int, int] | None = None,
  overwrite: bool = False,
) -> dict:
  """Makes or completes a set, called by all processes.

  Args:
    context: of the run, with the sampler and seed wanted.
    ref: the weights.
    path: the `.npz` to write, on a disk that all processes see.
    count: images in the set.
    labels: classes that are used in turn, as `parse_labels` reads them.
    prompts: of a text network, used in turn; they have a size of their own.
    size: height and width of images of classes; as trained by default.
    overwrite: remove a set of other settings at `path` first.

  Returns:
    What was sampled and how, as JSON values.

  Raises:
    MissingFileError: the run has no such checkpoint.
    UserError: labels, a size or patches that cannot be; another set is there.
  """
  trained = (context.config.data.resolution,) * 2
  if prompts is None:
    size = size or trained
    classes, asked = _read_classes(context, ref, count, labels)
    # Sets of the size of training never had it.
    asked |= dict(size=list(size)) if size != trained else {}
  else:
    size = prompts.size or trained
    classes, asked = prompts.numbers(count), prompts.settings
  context.model.grid(*size)  # refused before anything is written
  weights, ref = restore_weights(
    ref, context.model, context.mesh, context.rules
  )
  settings = image_settings(context.config, weights, ref) | asked
  shape = context.image_shape(*size)
  store, pending = _open(path, count, shape, settings, overwrite)
  if pending:
    log.info(
      f'Sampling {sum(map(len, pending)):,} of {count:,} images '
      f'from step {ref.step} of {ref.workdir}.'
    )
    images_of, batch_size = _make_images_of(
      context, weights, classes, prompts, size
    )
    _fill(store, pending, count, batch_size, images_of)
  multihost_utils.sync_global_devices(f'sampled {path}')
  if jax.process_index() == 0:
    store.finish(None if prompts else classes)
  multihost_utils.sync_global_devices(f'samples {path}')
  return dict(settings, count=count, workdir=str(ref.workdir))


def _read_classes(
  context: RunContext, ref: CheckpointRef, count: int, labels: str | None
) -> tuple[Int[np.ndarray, 'I'], dict[str, Any]]:
  """The label of each image, and what the set says of them."""
  number = context.config.model.num_classes
  classes = parse_labels(labels, number, count, read_class_names(ref.workdir))
  known = f'0-{number - 1}' if number else 'none'
  return classes, dict(labels=labels or known)


def make_sized_sets(
  context: RunContext,
  ref: CheckpointRef,
  out: str | os.PathLike,
  count: int,
  prompts: Prompts,
  sizes: Mapping[tuple[int, int], float],
  *,
  overwrite: bool = False,
) -> None:
  """Makes a set, a grid and files for each of several sizes.

  Of 480 x 544 they are 480x544.npz, 480x544.png and images/480x544/. Prompts
  take turns over all sizes; the noise of an image depends on the seed and its
  number in the set of its size.

  Args:
    context: of the run, with the sampler and seed wanted.
    ref: the weights.
    out: the folder to write to.
    count: images in all.
    prompts: used in turn.
    sizes: heights and widths, with the share of the images that each gets.
    overwrite: remove sets of other settings first.

  Raises:
    UserError: as `make_sample_set`, before any image is made.
  """
  folder = outputs.path_of(out)
  for size in sizes:
    context.model.grid(*size)
  for size, texts in split_over_sizes(prompts.texts, count, sizes).items():
    name = '{}x{}'.format(*size)
    mine = dataclasses.replace(prompts, texts=texts, size=size)
    make_sample_set(
      *(context, ref, folder / f'{name}.npz', len(texts)),
      prompts=mine,
      overwrite=overwrite,
    )
    if jax.process_index() == 0:
      (folder / 'images').mkdir(exist_ok=True)
      write_pngs(folder / 'images' / name, folder / f'{name}.npz')
      write_grid(folder / f'{name}.png', folder / f'{name}.npz', mine)


def split_over_sizes(
  texts: Sequence[str], count: int, sizes: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], list[str]]:
  """The texts of `count` images, by the sizes that the images get.

  Each image gets the size that has fallen behind its share the most; texts take
  turns.
  """
  total = sum(sizes.values())
  found: dict[tuple[int, int], list[str]] = {size: [] for size in sizes}
  for i in range(count):
    size = max(sizes, key=lambda s: (i + 1) * sizes[s] / total - len(found[s]))
    found[size].append(texts[i % len(texts)])
  return {size: given for size, given in found.items() if given}


# f(indices) -> batches of these images of a sample set.
ImagesOf = Callable[
  [Int[np.ndarray, 'I']], Iterator[UInt8[np.ndarray, 'B H W C']]
]


def _make_images_of(
  context: RunContext,
  weights: PyTree,
  classes: Int[np.ndarray, 'I'],
  prompts: Prompts | None,
  size: tuple[int, int],
) -> tuple[ImagesOf, int]:
  """Makes the images of the set, and says how many at once."""
  # A set smaller than a batch is one, as `Model.sample` draws it.
  batch_size = min(len(classes), context.config.sampler.batch_size)
  if prompts is None:
    sampler = Sampler(context, size=size, batch_size=batch_size)
    return (
      lambda indices: sampler.sample(weights, indices, classes[indices]),
      sampler.batch_size,
    )
  of_texts = TextSampler(context, weights, prompts, batch_size)
  return (
    lambda indices: of_texts.sample(
      [prompts.texts[k] for k in classes[indices]], indices
    ),
    of_texts.batch_size,
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
  # The others open what exists then: they have nothing to remove.
  multihost_utils.sync_global_devices(f'opened {path}')
  if store is None:
    store = SampleStore(path, count, shape, settings, shard=SHARD)
    missing = []
  spans = store.spans()
  mask = np.array([span in missing for span in spans])
  # Disks may show the processes different files: they must agree.
  mask = multihost_utils.broadcast_one_to_all(mask)
  return store, [span for span, wanted in zip(spans, mask) if wanted]


def _fill(
  store: SampleStore,
  pending: list[range],
  count: int,
  batch_size: int,
  images_of: ImagesOf,
) -> None:
  """Samples the pending shards, each written by one of the processes."""
  # Batches start at the same indices as in a run without a stop, so that the
  # images are equal to the last bit.
  wanted = np.concatenate([np.asarray(span) for span in pending])
  starts = np.unique(wanted // batch_size)[:, None] * batch_size
  indices = starts + np.arange(batch_size)
  indices = indices[indices < count]
  batches = _reported(images_of(indices), Progress('Sampled', len(indices)))
  parts = _cut(batches, indices, pending)
  for number, (span, images) in enumerate(parts):
    if number % jax.process_count() == jax.process_index():
      store.write(span, images)


def _reported(
  batches: Iterator[np.ndarray], report: Callable[[int], None]
) -> Iterator[np.ndarray]:
  """The same batches; reports after each how many images there were."""
  done = 0
  for images in batches:
    done += len(images)
    report(done)
    yield images


def _cut(
  batches: Iterator[np.ndarray],
  indices: Int[np.ndarray, 'I'],
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
