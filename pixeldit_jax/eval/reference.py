"""References that samples are compared with: those of ADM, EDM, JiT, or ours.

| kind   | holds                                     | gives                   |
|--------|-------------------------------------------|-------------------------|
| images | `arr_0` of a `.npz`, or a folder          | all metrics             |
| source | digits, folder:, shards: ..., as training | all metrics, features   |
|        | crops them                                | of 10,000 images        |
| ADM    | `arr_0` and mu, sigma, mu_s, sigma_s of a | all metrics, FID from   |
|        | larger set                                | the larger set          |
| EDM,   | mu, sigma                                 | FID                     |
| JiT    |                                           |                         |
| own    | mu, sigma, mu_s, sigma_s, features, and   | all metrics             |
|        | meta: network, counts, checksums          |                         |
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from pixeldit_jax.data.sources.kinds import is_source
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.data.transforms import BadExample, crop, decode
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval import statistics_file
from pixeldit_jax.files import sha256
from pixeldit_jax.images.image_sets import (
  FolderImages,
  NpzImages,
  open_images,
)
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.image_statistics import ImageStatistics, collect
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

KEPT_FEATURES = 10_000  # as many images as ADM's batches hold
_BATCH = 256
_DECODERS = 8  # threads; Pillow decodes without Python's lock


@dataclasses.dataclass(frozen=True)
class Reference:
  """Statistics of a reference, and what a result says of it.

  Attributes:
    statistics: of the reference images.
    path: where it was read.
    kind: 'images', 'source', 'adm', 'statistics' or 'own'.
    checksum: SHA-256 of the file, of the folder's names and contents, or of
      the pixels of a source.
  """

  statistics: ImageStatistics
  path: str
  kind: str
  checksum: str


class SourceImages:
  """All images of a source, cropped as for training.

  In the order of the source; of one with aspect-ratio buckets that are kept,
  bucket by bucket.

  Attributes:
    count: number of images.
  """

  def __init__(self, spec: str, resolution: int | None):
    """Opens the source.

    Args:
      spec: of the source.
      resolution: side of the squares; None is that of prepared data, whose
        aspect-ratio buckets are kept.

    Raises:
      MissingFileError: there are no such data.
      UserError: not a source, no resolution, or another than it is of.
    """
    self._spec, self._source = spec, open_source(spec)
    square = bool(resolution)
    own = self._source.resolution
    if own and resolution not in (None, 0, own):
      raise UserError(
        f'the reference {spec} was prepared at {own} pixels, and images of '
        f'{resolution} are asked for: prepare it again with pixeldit '
        f'prepare-data --resolution={resolution}, or give what it was made of.'
      )
    resolution = resolution or own
    if not resolution:
      raise UserError(
        f'{spec} has images of any size; give --resolution=256 or the like.'
      )
    self.count = len(self._source)
    self._order = np.arange(self.count)
    self._size_of = dict.fromkeys([0], (resolution, resolution))
    self._bucket_of = np.zeros(self.count, np.int64)
    if self._source.buckets and square:
      log.info('%s has aspect-ratio buckets: its images are cut square.', spec)
    elif self._source.buckets:
      self._bucket_of = self._source.bucket_of_examples()
      self._order = np.argsort(self._bucket_of, kind='stable')
      self._size_of = dict(enumerate(self._source.buckets))
    self._digest = hashlib.sha256()

  def _decode(self, index: int) -> np.ndarray:
    try:
      image = decode(self._source[index]['image'])
      return crop(image, *self._size_of[int(self._bucket_of[index])])
    except (BadExample, OSError) as error:
      raise UserError(
        f'{self._spec}: image {index} cannot be read ({error}). Leave such '
        'images out with pixeldit prepare-data, and take its shards.'
      ) from error

  def batches(self, size: int) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    """Yields images of one size, `size` at a time at most."""
    self._digest = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
      for start in range(0, self.count, size):
        part = self._order[start : start + size].tolist()
        found = pool.map(self._decode, part)
        for _, alike in itertools.groupby(found, lambda image: image.shape):
          images = np.stack(list(alike))
          self._digest.update(images.data)
          yield images

  def checksum(self) -> str:
    """SHA-256 of the pixels; called once all batches have been drawn."""
    return self._digest.hexdigest()


def read_reference(
  path: str | os.PathLike,
  network: FeatureNetwork,
  progress: Callable[[int], Callable[[int], None]] | None = None,
  *,
  resolution: int | None = None,
  keep: int | None = None,
) -> Reference:
  """Reads a reference of any kind; images go through the network.

  Args:
    path: a `.npz`, a folder of images, or a data source.
    network: the network that also sees the samples.
    progress: f(count) gives a function that is called with the number of
      images done.
    resolution: side of the squares that a data source is cropped to; None is
      that of prepared data, whose aspect-ratio buckets are kept.
    keep: images whose features are kept; all by default, of a source 10,000.

  Raises:
    MissingFileError: there is no such file, folder or data set.
    UserError: not a reference, damaged, or of another feature network.
  """
  if is_source(os.fspath(path)):
    source = SourceImages(os.fspath(path), resolution)
    keep = KEPT_FEATURES if keep is None else keep
    statistics = _of_images(source, network, progress, keep)
    return Reference(statistics, os.fspath(path), 'source', source.checksum())
  given, path = os.fspath(path), pathlib.Path(downloads.here(path))
  names: set[str] = set()
  if not path.is_dir():
    names = statistics_file.array_names(path)
  if 'meta' in names:
    statistics, kind = statistics_file.read_own(path, network), 'own'
  elif names and 'arr_0' not in names:
    statistics = statistics_file.read_gaussians(path, network)
    kind = 'statistics'
  else:
    images = open_images(path)
    statistics, kind = _of_images(images, network, progress, keep), 'images'
    if 'mu' in names:
      larger = statistics_file.read_gaussians(path, network)
      statistics = dataclasses.replace(
        statistics,
        pooled=larger.pooled,
        spatial=larger.spatial or statistics.spatial,
      )
      kind = 'adm'
  return Reference(statistics, given, kind, _checksum(path))


def _of_images(
  images: NpzImages | FolderImages | SourceImages,
  network: FeatureNetwork,
  progress: Callable[[int], Callable[[int], None]] | None,
  keep: int | None,
) -> ImageStatistics:
  report = progress and progress(images.count)
  batches = images.batches(_BATCH)
  return collect(batches, network, images.count, keep=keep, progress=report)


def _checksum(path: pathlib.Path) -> str:
  if path.is_dir():
    return FolderImages(path).checksum()
  return sha256(str(path))
