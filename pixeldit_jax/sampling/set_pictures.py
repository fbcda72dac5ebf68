"""The pictures of a finished sample set: each image, and a grid of some."""

import concurrent.futures
import logging
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from pixeldit_jax import files, outputs
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.grid import image_grid, write_png
from pixeldit_jax.images.image_sets import NpzImages
from pixeldit_jax.progress import Progress
from pixeldit_jax.sampling import provenance
from pixeldit_jax.sampling.text_sampler import Prompts
from pixeldit_jax.storage import buckets
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

GRID = 100  # images in the picture
GRID_COLUMNS = 10
PROMPT_CELL = 128  # pixels of an image above its prompt


def write_grid(
  path: str | os.PathLike,
  npz: str | os.PathLike,
  prompts: Prompts | None = None,
  class_names: Sequence[str] = (),
) -> None:
  """Draws the first images of a set, with what they are to show.

  Args:
    path: of the PNG.
    npz: the set.
    prompts: of a network of texts; each stands below its image.
    class_names: by label, with which each class has a row of its own.
  """
  with outputs.replacing(path) as temporary:
    write_png(temporary, _grid(npz, prompts, class_names))
  log.info('Wrote %s', path)


def _grid(
  npz: str | os.PathLike, prompts: Prompts | None, class_names: Sequence[str]
) -> UInt8[np.ndarray, 'H W C']:
  images = next(NpzImages(npz).batches(GRID))
  labels = NpzImages(npz).labels()
  if prompts is not None:
    titles = [prompts.texts[k] for k in prompts.numbers(len(images))]
    columns = min(GRID_COLUMNS, math.ceil(math.sqrt(len(images))))
    return contact_sheet.draw(
      list(images), titles, columns, cell=PROMPT_CELL, lines=3
    )
  if class_names and labels is not None:
    return contact_sheet.draw_classes(
      images, labels[: len(images)], class_names, GRID_COLUMNS
    )
  return image_grid(images, GRID_COLUMNS)


def write_pngs(folder: str | os.PathLike, npz: str | os.PathLike) -> None:
  """Writes the images of a set as 000000.png and on.

  A folder of ours is replaced when all of them are written.
  """
  from PIL import Image

  target = outputs.path_of(folder)
  images = NpzImages(npz)
  report, done = Progress('Wrote', images.count), 0
  files.remove_temporaries(str(target.parent), [target.name])
  with outputs.replacing(target) as temporary:
    temporary.mkdir()

    def write(numbered):
      number, image = numbered
      Image.fromarray(image).save(temporary / f'{number:06d}.png')

    with concurrent.futures.ThreadPoolExecutor() as pool:
      for batch in images.batches(256):
        list(pool.map(write, enumerate(batch, start=done)))
        done += len(batch)
        report(done)


def adopt_older(out: str | os.PathLike, prompts: Prompts | None = None) -> None:
  """Lists as ours the files of a set that is older than the list of outputs.

  Each is compared with the images of samples.npz first.
  """
  if buckets.is_remote(out):
    return
  out = pathlib.Path(out)
  npz = out / 'samples.npz'
  if (out / outputs.MANIFEST).exists() or not npz.is_file():
    return
  settings, images = provenance.read_settings(npz), NpzImages(npz)
  if not settings or settings.get('shape') != [*images.shape]:
    return
  found = ['samples.npz']
  grid = out / 'samples.png'
  if grid.is_file() and np.array_equal(_pixels(grid), _grid(npz, prompts, ())):
    found.append(grid.name)
  if (result := out / 'result.json').is_file():
    keys = {'settings', 'network', 'reference'}
    if keys <= set(files.read_json(result)):
      found.append(result.name)
  for start, batch in enumerate(images.batches(256)):
    for number, image in enumerate(batch, start=256 * start):
      png = out / 'images' / f'{number:06d}.png'
      if png.is_file() and np.array_equal(_pixels(png), image):
        found.append(f'images/{png.name}')
  outputs.adopt(out, found)


def _pixels(path: pathlib.Path) -> np.ndarray:
  from PIL import Image

  return np.asarray(Image.open(path))
