"""Aspect-ratio buckets for pictures that were not prepared in them.

Their sizes are read at the start: all pictures are opened once, and none is
decoded.
"""

import concurrent.futures

import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.data.pipeline import aspect_ratio_buckets
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.source import Part, Source
from pixeldit_jax.data.transforms import BadExample, size_of
from pixeldit_jax.errors import UserError
from pixeldit_jax.progress import Progress
from pixeldit_jax.typing import Int

MOST = 100_000  # pictures; more are better prepared once


class SizedSource(Part):
  """A source whose pictures have buckets by their sizes.

  Buckets of less than a batch are left out, and their pictures are in the
  nearest of the others.
  """

  def __init__(
    self, source: Source, resolution: int, patch_size: int, batch_size: int
  ):
    """Reads the sizes of all pictures.

    Args:
      source: without buckets.
      resolution: about the root of the pixels of each bucket.
      patch_size: of the network, which divides the sides.
      batch_size: the least pictures of a bucket.

    Raises:
      UserError: there are more than `MOST` pictures.
    """
    if len(source) > MOST:
      raise UserError(
        f'data.buckets=True with {len(source):,} pictures that were not '
        f'prepared in buckets: the sizes of {MOST:,} at most are read at the '
        'start. Prepare the data by pixeldit prepare-data --buckets'
      )
    super().__init__(source, np.arange(len(source)))
    family = aspect_ratio_buckets.family(resolution, patch_size)
    self._bucket_of, used = _assign(_ratios(source), family, batch_size)
    self.buckets = tuple(family[k] for k in used)

  def bucket_of_examples(self) -> Int[np.ndarray, 'N']:
    return self._bucket_of


def with_buckets(source: Source, config: ConfigDict) -> Source:
  """The source as `config.data.buckets` asks: sizes are read if need be.

  Raises:
    UserError: squares were prepared, or there are too many pictures.
  """
  data = config.data
  if not data.buckets or source.buckets:
    return source
  if source.resolution:
    raise UserError(
      f'data.buckets=True with data.source={data.source!r}, which was prepared '
      'as squares; pixeldit prepare-data --buckets keeps the form of pictures'
    )
  return SizedSource(
    source, data.resolution, config.model.patch_size, data.batch_size
  )


def _ratios(source: Source) -> np.ndarray:
  """The logarithm of width over height; 0 of what cannot be read."""

  def ratio(index: int) -> float:
    try:
      height, width = size_of(source[index]['image'])
    except (BadExample, OSError):  # counted when it is to be trained on
      return 0.0
    return aspect_ratio_buckets.log_ratio(height, width)

  report = Progress('Looked at the size of', len(source), unit='pictures')
  found = np.zeros(len(source))
  with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
    for index, value in enumerate(pool.map(ratio, range(len(source)))):
      found[index] = value
      report(index + 1)
  return found


def _assign(
  ratios: np.ndarray, family: tuple[tuple[int, int], ...], least: int
) -> tuple[np.ndarray, list[int]]:
  """The bucket of each picture, as a number of those that are used."""
  used = list(range(len(family)))
  while True:
    nearest = aspect_ratio_buckets.nearest_of(ratios, [family[k] for k in used])
    counts = np.bincount(nearest, minlength=len(used))
    if len(used) == 1 or counts.min() >= least:
      return nearest, used
    del used[int(counts.argmin())]
