"""A Frechet distance of digits without any download.

The features are the 45 pairwise margins of the classifier in `digits`. The
distance is no FID: it compares digit samples with each other alone. The
reference is the data source `digits`, all 5,000 of them.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from pixeldit_jax.demo import digit_classifier
from pixeldit_jax.encoders.inception import Features
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.typing import UInt8

DIGITS = 'mnist-digits-svc'


def digit_network() -> FeatureNetwork:
  """The digit classifier as a feature network for `collect` and `evaluate`."""
  widths = (len(digit_classifier.PAIRS), 0, 0)
  return FeatureNetwork(
    DIGITS, _checksum(), widths, _extract, digit_classifier.vote
  )


def _extract(
  batches: Iterable[UInt8[np.ndarray, 'B 28 28 C']],
) -> Iterator[Features]:
  for images in batches:
    yield Features(digit_classifier.margins(images))


def _checksum() -> str:
  """SHA-256 of all that decides the classifier: digits and constants."""
  images, labels = digit_classifier.load_digits()
  digest = hashlib.sha256(images.tobytes() + labels.tobytes())
  constants = (
    digit_classifier.C,
    digit_classifier.GAMMA,
    digit_classifier.HELD_OUT_EVERY,
  )
  digest.update(repr(constants).encode())
  return digest.hexdigest()
