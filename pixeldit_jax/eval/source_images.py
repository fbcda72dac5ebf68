"""A data source of `data.sources` as a set of images to take statistics of."""

import concurrent.futures
import hashlib
from collections.abc import Iterator

import numpy as np

from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.data.transforms import BadExample, center_crop, decode
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import UInt8

_DECODERS = 8  # threads; Pillow decodes without Python's lock


class SourceImages:
  """All images of a source in its order, cropped as for training.

  Attributes:
    count: number of images.
    shape: (H, W, 3) of each.
  """

  def __init__(self, spec: str, resolution: int | None):
    """Opens the source.

    Raises:
      ValueError: not a source, or no resolution.
      FileNotFoundError: nothing there.
    """
    if not resolution:
      raise UserError(
        f'{spec} has images of any size; say --resolution=256 or the like.'
      )
    self._spec, self._source = spec, open_source(spec)
    self.count, self.shape = len(self._source), (resolution, resolution, 3)
    self._digest = hashlib.sha256()

  def _decode(self, index: int) -> np.ndarray:
    try:
      image = decode(self._source[index]['image'])
      return center_crop(image, self.shape[0])
    except (BadExample, OSError) as error:
      raise UserError(
        f'{self._spec}: image {index} cannot be read ({error}). Leave such '
        'images out with launch/prepare_data.py, and take its shards.'
      ) from error

  def batches(self, size: int) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    """Yields images in the order of the source, `size` at a time."""
    self._digest = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
      for start in range(0, self.count, size):
        stop = min(start + size, self.count)
        images = np.stack(list(pool.map(self._decode, range(start, stop))))
        self._digest.update(images)
        yield images

  def checksum(self) -> str:
    """SHA-256 of the pixels; called once all batches have been drawn."""
    return self._digest.hexdigest()
