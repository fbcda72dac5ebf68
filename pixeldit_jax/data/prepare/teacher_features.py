"""Stores the features that a frozen teacher finds in prepared images.

A training step may then align with features that it reads (see `flow.repa`)
in place of running the teacher. The images are not mirrored.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.data import transforms
from pixeldit_jax.data.prepare.precompute import Computation, precompute
from pixeldit_jax.data.prepare.shard_job import ALONE, Peers, Runner, run_here
from pixeldit_jax.data.source import Example
from pixeldit_jax.data.sources import shards
from pixeldit_jax.encoders.frozen import FrozenConfig, with_weights
from pixeldit_jax.encoders.vision import teacher_features
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, PyTree, UInt8

NAME = 'features'  # of the arrays, and of their key in batches

Features = Callable[[UInt8[np.ndarray, 'B H W 3']], Float[Array, 'B *shape']]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """`make_features` of a teacher, which each process opens for itself.

  Attributes:
    source: its name or file, see `load_vision`.
    patch_size: of the student.
    checksum: of its weights, where another process has opened it.
  """

  source: str
  patch_size: int
  checksum: str = ''

  def __call__(
    self, images: UInt8[np.ndarray, 'B H W 3']
  ) -> Float[Array, 'B L D']:
    return self._features(images)

  def __reduce__(self):
    weights = self._opened[1]
    return Teacher, (self.source, self.patch_size, checksum_of(weights))

  def describe(self, resolution: int) -> dict[str, Any]:
    """Returns the `meta` of its features; see `describe`."""
    return describe(self.source, self._opened[1], resolution, self.patch_size)

  @functools.cached_property
  def _opened(self) -> tuple[FrozenConfig, PyTree]:
    config, weights = load_vision(self.source)
    if self.checksum and checksum_of(weights) != self.checksum:
      raise UserError(
        f'the teacher {self.source} differs between the machines: give a file '
        'that all of them see'
      )
    return config, weights

  @functools.cached_property
  def _features(self) -> Features:
    return make_features(*self._opened, self.patch_size)


def make_features(
  config: FrozenConfig, weights: PyTree, patch_size: int
) -> Features:
  """f(images) -> `teacher_features`, the batch spread over local devices."""

  def features(weights, images):
    model = with_weights(config, weights)
    return teacher_features(model, transforms.normalize(images), patch_size)

  return over_devices(features, weights)


def over_devices(f: Callable[..., Array], weights: PyTree) -> Features:
  """f(weights, images) of images, the batch spread over local devices."""
  mesh = Mesh(jax.local_devices(), 'batch')
  spread = NamedSharding(mesh, PartitionSpec('batch'))
  weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))
  compiled = jax.jit(f)
  return lambda images: compiled(weights, jax.device_put(images, spread))


def describe(
  teacher: str, weights: PyTree, resolution: int, patch_size: int
) -> dict[str, Any]:
  """Returns the `meta` of stored features.

  'teacher' and 'sha256' are the name and the checksum of its weights, 'grid'
  the patches down and across, 'patch_size' the student's.

  Raises:
    UserError: if the images do not divide into patches.
  """
  if patch_size < 1 or resolution % patch_size:
    raise UserError(
      f'features of images of {resolution} pixels: the patch of the network '
      f'to be trained must divide that, got {patch_size}'
    )
  return {
    'teacher': teacher,
    'sha256': checksum_of(weights),
    'patch_size': patch_size,
    'grid': [resolution // patch_size] * 2,
  }


def checksum_of(weights: PyTree) -> str:
  """SHA-256 of weights and their names."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(weights):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def store(
  path: str,
  features: Features,
  meta: dict[str, Any],
  *,
  name: str = NAME,
  dtype: str = 'bfloat16',
  batch_size: int = 64,
  peers: Peers = ALONE,
  runner: Runner = run_here,
) -> dict[str, Any]:
  """Stores features of the images of a folder of shards.

  Args:
    path: the folder.
    features: a `Teacher`, or any other of this form.
    meta: of `describe`.
    batch_size: images at once; rounded up to a multiple of the devices.
    peers: the processes that share the work.
    runner: of this process's shards.

  Returns:
    The manifest of the features.

  Raises:
    UserError: for images of several shapes; see also `precompute`.
  """
  if shards.read_manifest(path)['buckets']:
    raise UserError(
      f'{path} holds buckets, and {name} are stored of squares: prepare the '
      'images without --buckets, or do without what is stored'
    )
  devices = jax.local_device_count()
  computation = Computation(
    name=name,
    dtype=dtype,
    compute=functools.partial(_features_of, features),
    meta=meta,
    load=_pixels_of,
    batch_size=-(-batch_size // devices) * devices,
  )
  return precompute(path, computation, peers, runner)


def _features_of(
  features: Features, images: list[UInt8[np.ndarray, 'H W 3']]
) -> Float[Array, 'B *shape']:
  return features(np.stack(images))


def _pixels_of(example: Example) -> UInt8[np.ndarray, 'H W 3']:
  return np.asarray(transforms.decode(example['image']))
