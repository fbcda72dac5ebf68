"""Stores the latents of prepared images, for networks that see latents.

The Gaussian of an autoencoder for each image, and for the image mirrored: a
training step draws from it (see `train.latents`).
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.convert.autoencoder import load_autoencoder
from pixeldit_jax.data import transforms
from pixeldit_jax.data.precomputed_arrays import LATENTS
from pixeldit_jax.data.prepare.teacher_features import (
  checksum_of,
  over_devices,
  store,
)
from pixeldit_jax.encoders import tiles
from pixeldit_jax.encoders.autoencoder import Autoencoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Moments:
  """Images to means and log variances, then those of the mirrored images.

  Each process opens the autoencoder for itself.

  Attributes:
    source: its name or file, see `load_autoencoder`.
    checksum: of its weights, where another process has opened it.
    tile: side of the tiles in pixels that images are encoded by; 0 is none.
  """

  source: str
  checksum: str = ''
  tile: int = 0

  def __call__(
    self, images: UInt8[np.ndarray, 'B H W 3']
  ) -> Float[Array, 'B h w M']:
    return self._compiled(images)

  def __reduce__(self):
    return Moments, (self.source, _checksum(self.autoencoder), self.tile)

  def describe(self, resolution: int) -> dict[str, Any]:
    """Returns the `meta` of latents of images of so many pixels a side.

    Raises:
      UserError: the images, or tiles of them, do not divide into latents.
    """
    config = self.autoencoder.config
    tiles.check_tile('--latent_tile', self.tile, config.factor)
    if resolution % config.factor:
      raise UserError(
        f'latents of images of {resolution} pixels: a multiple of '
        f'{config.factor}, pixels of a latent of {self.source}, is needed.'
      )
    return {
      'autoencoder': self.source,
      'sha256': _checksum(self.autoencoder),
      'channels': config.latent_channels,
      'factor': config.factor,
      'scale': config.scale,
      'side': resolution // config.factor,
    } | ({'tile': self.tile} if self.tile else {})

  @functools.cached_property
  def autoencoder(self) -> Autoencoder:
    """The network.

    Raises:
      UserError: it is another one than that of the other processes.
    """
    found = load_autoencoder(self.source)
    if self.checksum and _checksum(found) != self.checksum:
      raise UserError(
        f'the autoencoder {self.source} differs between the machines: give a '
        'file that all of them see'
      )
    return found

  @functools.cached_property
  def _compiled(self) -> Any:
    graphdef, weights = nnx.split(self.autoencoder)

    def moments(weights, images):
      model = nnx.merge(graphdef, weights)
      data = transforms.normalize(images)
      found = [
        tiles.encode(model, x, self.tile) for x in (data, data[:, :, ::-1])
      ]
      return jnp.concatenate([part for one in found for part in one], -1)

    return over_devices(moments, weights)


def store_latents(
  path: str, moments: Moments, meta: dict[str, Any], **options: Any
) -> dict[str, Any]:
  """Stores the latents of a folder of shards, as float16; see `store`.

  Args:
    path: the folder.
    moments: what makes them.
    meta: of `Moments.describe`.
    options: those of `store`, 16 images at once by default.
  """
  options = dict(batch_size=16) | options
  return store(path, moments, meta, name=LATENTS, dtype='float16', **options)


def _checksum(autoencoder: Autoencoder) -> str:
  return checksum_of(nnx.to_pure_dict(nnx.state(autoencoder)))
