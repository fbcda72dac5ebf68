"""A Frechet distance of digits without any download.

The features are the 45 pairwise margins of the classifier in `digits`. The
distance is no FID: it compares digit samples with each other alone. The
reference is the data source `digits`, all 5,000 of them.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from pixeldit_jax.eval import digits
from pixeldit_jax.eval.features import FeatureNetwork
from pixeldit_jax.eval.inception import Features
from pixeldit_jax.typing import UInt8

DIGITS = 'mnist-digits-svc'


def digit_network() -> FeatureNetwork:
  """The digit classifier as a feature network for `collect` and `evaluate`."""
  widths = (len(digits.PAIRS), 0, 0)
  return FeatureNetwork(DIGITS, _checksum(), widths, _extract, digits.vote)


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
