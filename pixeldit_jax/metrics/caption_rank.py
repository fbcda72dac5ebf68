"""Whether images show what their captions say, by scores of all pairs.

The scores come from a text-image network, or from a probe: a ridge regression
from the features of images to the vectors of their texts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pixeldit_jax.typing import Float

_RIDGES = 10.0 ** np.arange(-4, 3)  # times the mean eigenvalue


def caption_ranks(
  scores: Float[np.ndarray, 'N N'], captions: Sequence[str]
) -> dict[str, float]:
  """How well the images choose their own captions.

  Args:
    scores: of image i with caption j, higher where they fit better.
    captions: of the images; equal ones are no others.

  Returns:
    'caption_rank', the share of other captions that fit worse, in the mean over
    images: 1 at best, 0.5 by chance; and 'caption_top1', the share of images
    that no other caption fits as well.
  """
  texts = np.array(captions)
  other = texts[:, None] != texts
  own = np.diagonal(scores)[:, None]
  worse = np.where(scores == own, 0.5, scores < own)
  counts = np.maximum(1, other.sum(1))
  ranks = np.where(other, worse, 0).sum(1) / counts
  first = np.where(other, scores < own, True).all(1)
  return dict(
    caption_rank=float(ranks.mean()), caption_top1=float(first.mean())
  )


class Probe(NamedTuple):
  """A linear map from features to texts, both about their means.

  Attributes:
    features: their mean [F].
    texts: their mean [T].
    weights: [F, T].
  """

  features: Float[np.ndarray, 'F']
  texts: Float[np.ndarray, 'T']
  weights: Float[np.ndarray, 'F T']

  def scores(
    self, features: Float[np.ndarray, 'N F'], texts: Float[np.ndarray, 'M T']
  ) -> Float[np.ndarray, 'N M']:
    """Cosines of what the features say with the texts."""
    said = (features - self.features) @ self.weights
    return _unit(said) @ _unit(texts - self.texts).T


def fit_probe(
  features: Float[np.ndarray, 'I F'], texts: Float[np.ndarray, 'I T']
) -> Probe:
  """The ridge regression whose error is lowest with each image left out."""
  mean, mean_text = features.mean(0), texts.mean(0)
  x = (features - mean).astype(np.float64)
  y = (texts - mean_text).astype(np.float64)
  values, vectors = np.linalg.eigh(x @ x.T)
  values = np.maximum(values, 0)
  rotated = vectors.T @ y
  best, least = None, np.inf
  for ridge in _RIDGES * max(values.mean(), 1e-12):
    alpha = vectors @ (rotated / (values + ridge)[:, None])
    left_out = (vectors**2) @ (1 / (values + ridge))  # of (K + ridge)^-1
    error = float(np.mean((alpha / left_out[:, None]) ** 2))
    if error < least:
      best, least = alpha, error
  assert best is not None
  return Probe(mean, mean_text, (x.T @ best).astype(np.float32))


def _unit(x: Float[np.ndarray, 'N T']) -> Float[np.ndarray, 'N T']:
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
