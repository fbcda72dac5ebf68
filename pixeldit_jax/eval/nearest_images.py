"""The training picture nearest to each sample: is it copied?

Distances are of pixels, of pictures reduced to 16 x 16, to the picture or to
its mirror image. How near pictures of the data are to each other tells how near
is a copy.
"""

import logging
import os
from collections.abc import Iterable

import numpy as np
from PIL import Image

from pixeldit_jax import outputs
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.images.image_sets import FolderImages, NpzImages
from pixeldit_jax.typing import Float, Int, UInt8

log = logging.getLogger(__name__)

_SIDE = 16
_OWN = 256  # pictures of the data that are compared with all others


def reduced(
  images: UInt8[np.ndarray, 'B H W 3'],
) -> Float[np.ndarray, 'B D']:
  """Small versions in [0, 1], as vectors."""
  size = (_SIDE, _SIDE)
  small = [
    np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    for image in images
  ]
  return np.stack(small).reshape(len(images), -1).astype(np.float32) / 255


def nearest(
  of: Float[np.ndarray, 'S D'], among: Float[np.ndarray, 'N D']
) -> tuple[Int[np.ndarray, 'S'], Float[np.ndarray, 'S']]:
  """The index of the nearest, and the root of the mean squared difference.

  A picture may be mirrored. Equal rows are at distance 0.
  """
  shape = (len(of), _SIDE, _SIDE, 3)
  mirrored = of.reshape(shape)[:, :, ::-1].reshape(of.shape)
  squares = np.minimum(_squares(of, among), _squares(mirrored, among))
  index = squares.argmin(1)
  rows = np.arange(len(of))
  return index, np.sqrt(squares[rows, index] / of.shape[1])


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  squares = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
  return np.maximum(squares, 0)


def draw_nearest(
  out: str | os.PathLike,
  samples: NpzImages | FolderImages,
  data: Iterable[UInt8[np.ndarray, '_ H W 3']],
  count: int,
) -> dict[str, float]:
  """Draws samples, each beside the picture of the data that is nearest.

  Args:
    out: the PNG to write.
    samples: from `open_images`.
    data: all pictures, in batches; they are read once.
    count: samples to draw, the first ones.

  Returns:
    The median distance of the samples to the data, and that of pictures of the
    data to the others.
  """
  shown = next(samples.batches(count))[:count]
  pictures, vectors = [], []
  for batch in data:
    pictures += [
      np.asarray(Image.fromarray(image).resize(shown.shape[2:0:-1]))
      for image in batch
    ]
    vectors.append(reduced(batch))
  among = np.concatenate(vectors)
  index, distances = nearest(reduced(shown), among)
  own = _own_distances(among)
  found = dict(
    nearest_sample=float(np.median(distances)),
    nearest_data=float(np.median(own)) if len(own) else float('nan'),
  )
  cells = [x for k, j in enumerate(index) for x in (shown[k], pictures[j])]
  titles = [text for d in distances for text in ('sample', f'nearest, {d:.3f}')]
  sheet = contact_sheet.draw(cells, titles, columns=8, cell=128)
  with outputs.replacing(outputs.path_of(out)) as temporary:
    write_png(temporary, sheet)
  log.info(
    'Wrote %s: the nearest picture is %.3f away in the middle; pictures of the '
    'data are %.3f from each other. A copy is far nearer than those.',
    *(out, found['nearest_sample'], found['nearest_data']),
  )
  return found


def _own_distances(among: np.ndarray) -> np.ndarray:
  """Of some pictures to the nearest other one."""
  rows = np.linspace(0, len(among) - 1, min(_OWN, len(among))).astype(int)
  found = []
  for row in np.unique(rows):
    others = np.delete(among, row, 0)
    if len(others):
      found.append(nearest(among[row : row + 1], others)[1][0])
  return np.array(found)
