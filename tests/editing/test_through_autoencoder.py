"""Images through an autoencoder and back, at any size."""

import numpy as np
from flax import nnx

from pixeldit_jax.data.transforms import normalize, to_uint8
from pixeldit_jax.editing.through_autoencoder import through_autoencoder
from pixeldit_jax.encoders.autoencoder import Autoencoder, AutoencoderConfig


def test_sides_that_do_not_fit_are_filled_and_cut():
  config = AutoencoderConfig(widths=(4, 8), blocks=1, groups=2)
  autoencoder = Autoencoder(config, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 7, 10, 3), np.uint8)
  found = through_autoencoder(autoencoder, images)
  assert found.shape == images.shape and found.dtype == np.uint8
  filled = np.concatenate([images, images[:, -1:]], axis=1)
  latents = autoencoder.encode(normalize(filled)).mean
  assert latents.shape == (2, 4, 5, 4)
  expected = np.asarray(to_uint8(autoencoder.decode(latents)))[:, :7]
  # Compiled as one program, sums are in another order.
  assert np.abs(found.astype(int) - expected).max() <= 1
  assert np.abs(found.astype(int) - images).mean() > 1
