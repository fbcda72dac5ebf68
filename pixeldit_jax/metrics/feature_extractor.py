"""Runs a feature network over any number of images on all devices.

Only the devices of the calling process are used: it waits for no other.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from pixeldit_jax.encoders.efficientnet_lite import (
  WIDTH,
  EfficientNetLite0,
)
from pixeldit_jax.encoders.inception import (
  LOGITS,
  POOLED,
  SPATIAL,
  Features,
  Inception,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import UInt8

INCEPTION = 'inception-2015-12-05'
NONE = 'none'


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
  """A network and what a result says of it.

  Attributes:
    name: which network; references of another name are refused.
    checksum: SHA-256 of its weights, for the record.
    widths: (pooled, spatial, logits), 0 where there is no such output.
    extract: image batches in order to their features, as NumPy arrays.
    classify: pooled features to the classes they show, if it can.
  """

  name: str
  checksum: str
  widths: tuple[int, int, int]
  extract: Callable[
    [Iterable[UInt8[np.ndarray, 'B H W 3']]], Iterator[Features]
  ]
  classify: Callable[[np.ndarray], np.ndarray] | None = None


def inception_network(
  model: Inception,
  checksum: str,
  *,
  batch_size: int | None = None,
  devices: list[jax.Device] | None = None,
) -> FeatureNetwork:
  """The FID network on all devices of this process.

  Args:
    model: from `convert.inception.load_inception`, as is `checksum`.
    batch_size: images per step over all devices, rounded up to a multiple of
      their number; features do not depend on it. By default
      `default_batch_size`.
    devices: defaults to `jax.local_devices()`.
  """
  devices = devices or jax.local_devices()
  batch_size = batch_size or default_batch_size(devices)
  extractor = Extractor(model, batch_size, devices)
  widths = (POOLED, SPATIAL, LOGITS)
  return FeatureNetwork(INCEPTION, checksum, widths, extractor)


def efficientnet_network(
  model: EfficientNetLite0, checksum: str, batch_size: int | None = None
) -> FeatureNetwork:
  """EfficientNet-Lite0 on all devices of this process.

  Args:
    model: from `convert.efficientnet_lite`, as is `checksum`.
    batch_size: see `inception_network`.
  """
  devices = jax.local_devices()
  extractor = Extractor(model, batch_size or default_batch_size(devices))
  return FeatureNetwork(
    'efficientnet-lite0', checksum, (WIDTH, 0, 0), extractor
  )


def no_network() -> FeatureNetwork:
  """Gives no features: for what is measured of the pixels themselves."""

  def extract(batches):
    for images in batches:
      _check(images)
      yield Features(np.zeros((len(images), 0), np.float32), None, None)

  return FeatureNetwork(NONE, '', (0, 0, 0), extract)


def default_batch_size(devices: list[jax.Device]) -> int:
  """64 images per device, but 8 in all on CPUs.

  There the activations (34 MB an image) are host memory.
  """
  return 8 if devices[0].platform == 'cpu' else 64 * len(devices)


class Extractor:
  """A compiled network on every device, with batches split over them."""

  def __init__(self, model: nnx.Module, batch_size: int, devices=None):
    devices = devices or jax.local_devices()
    if batch_size < 1:
      raise UserError(f'batch_size is {batch_size}, expected at least 1.')
    self.batch_size = -(-batch_size // len(devices)) * len(devices)
    mesh = jax.sharding.Mesh(np.array(devices), ('batch',))
    self._split = NamedSharding(mesh, PartitionSpec('batch'))
    everywhere = NamedSharding(mesh, PartitionSpec())
    graph, state = nnx.split(model)
    self._state = jax.device_put(state, everywhere)
    self._run = jax.jit(
      lambda state, images: nnx.merge(graph, state)(images),
      in_shardings=(everywhere, self._split),
      out_shardings=self._split,
    )

  def __call__(self, batches: Iterable[np.ndarray]) -> Iterator[Features]:
    """Yields features of `batch_size` images at a time, in order.

    While one batch is computed the next is read; no more is held.

    Raises:
      UserError: a batch is not uint8 [B, H, W, 3].
    """
    running = None
    for images, count in self._padded(batches):
      started = self._run(self._state, jax.device_put(images, self._split))
      if running:
        yield _fetch(*running)
      running = started, count
    if running:
      yield _fetch(*running)

  def _padded(self, batches):
    """Regroups into full batches; the last of a size is filled with zeros."""
    shape, full, filled = None, np.empty(0, np.uint8), 0
    for images in batches:
      _check(images)
      if filled and images.shape[1:] != shape:
        yield full, filled
        filled = 0
      shape = images.shape[1:]
      while len(images):
        if not filled:
          full = np.zeros((self.batch_size, *shape), np.uint8)
        taken = images[: self.batch_size - filled]
        full[filled : filled + len(taken)] = taken
        filled += len(taken)
        images = images[len(taken) :]
        if filled == self.batch_size:
          yield full, filled
          filled = 0
    if filled:
      yield full, filled


def _check(images: np.ndarray) -> None:
  if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
    raise UserError(
      f'Got images of shape {images.shape} and dtype {images.dtype}; metrics '
      'are of uint8 [B, H, W, 3] with values 0 to 255.'
    )


def _fetch(features: Features, count: int) -> Features:
  return jax.tree.map(lambda x: x[:count], jax.device_get(features))
