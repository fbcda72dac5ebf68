"""The same edit as a network of latents would return it, for comparison.

Such a network sees a picture through an encoder and gives it back through a
decoder, so that even what it leaves alone has gone through both.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.data.transforms import normalize, to_uint8
from pixeldit_jax.encoders.autoencoder import Autoencoder
from pixeldit_jax.typing import UInt8


def through_autoencoder(
  autoencoder: Autoencoder, images: UInt8[np.ndarray, 'B H W C']
) -> UInt8[np.ndarray, 'B H W C']:
  """Images encoded, at the mean of the Gaussian, and decoded.

  Sides are filled up to multiples of its factor with the last row and column,
  which are cut off again.
  """
  _, height, width, _ = images.shape
  factor = autoencoder.config.factor
  fill = [(0, 0), (0, -height % factor), (0, -width % factor), (0, 0)]
  filled = jnp.asarray(np.pad(images, fill, mode='edge'))
  found = _reconstruct(autoencoder, filled)
  return np.asarray(found)[:, :height, :width]


@nnx.jit
def _reconstruct(
  autoencoder: Autoencoder, images: UInt8[jax.Array, 'B H W C']
) -> UInt8[jax.Array, 'B H W C']:
  latents = autoencoder.encode(normalize(images)).mean
  return to_uint8(autoencoder.decode(latents))
