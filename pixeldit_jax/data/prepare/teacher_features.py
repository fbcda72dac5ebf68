"""Stores the features that a frozen teacher finds in prepared images.

A training step may then align with features that it reads (see `flow.repa`)
in place of running the teacher. The images are not mirrored.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixeldit_jax.data import transforms
from pixeldit_jax.data.prepare.precompute import Computation, precompute
from pixeldit_jax.data.prepare.shard_job import ALONE, Peers
from pixeldit_jax.data.source import Example
from pixeldit_jax.data.sources import shards
from pixeldit_jax.encoders.frozen import FrozenConfig, with_weights
from pixeldit_jax.encoders.vision import teacher_features
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, PyTree, UInt8

NAME = 'features'  # of the arrays, and of their key in batches

Features = Callable[[UInt8[np.ndarray, 'B H W 3']], Float[Array, 'B L D']]


def make_features(
  config: FrozenConfig, weights: PyTree, patch_size: int
) -> Features:
  """f(images) -> `teacher_features`, the batch spread over local devices."""
  mesh = Mesh(jax.local_devices(), 'batch')
  spread = NamedSharding(mesh, PartitionSpec('batch'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  weights = jax.device_put(weights, everywhere)

  @jax.jit
  def features(weights, images):
    model = with_weights(config, weights)
    return teacher_features(model, transforms.normalize(images), patch_size)

  return lambda images: features(weights, jax.device_put(images, spread))


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
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(weights):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.shape}'.encode())
    digest.update(array.tobytes())
  return {
    'teacher': teacher,
    'sha256': digest.hexdigest(),
    'patch_size': patch_size,
    'grid': [resolution // patch_size] * 2,
  }


def store(
  path: str,
  features: Features,
  meta: dict[str, Any],
  *,
  batch_size: int = 64,
  peers: Peers = ALONE,
) -> dict[str, Any]:
  """Stores features of the images of a folder of shards, as bfloat16.

  Args:
    path: the folder.
    features: of `make_features`, or any other of this form.
    meta: of `describe`.
    batch_size: images at once; rounded up to a multiple of the devices.
    peers: the processes that share the work.

  Returns:
    The manifest of the features.

  Raises:
    UserError: for images of several shapes; see also `precompute`.
  """
  if shards.read_manifest(path)['buckets']:
    raise UserError(
      f'{path} holds buckets, and features are stored of squares: align with '
      'a teacher while training on squares, as the paper does'
    )
  devices = jax.local_device_count()
  computation = Computation(
    name=NAME,
    compute=lambda images: features(np.stack(images)),
    meta=meta,
    load=_pixels_of,
    batch_size=-(-batch_size // devices) * devices,
  )
  return precompute(path, computation, peers)


def _pixels_of(example: Example) -> UInt8[np.ndarray, 'H W 3']:
  return np.asarray(transforms.decode(example['image']))
