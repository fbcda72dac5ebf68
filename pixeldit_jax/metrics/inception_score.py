"""Inception Score: exp of the mean KL(p(y|x) || p(y)), arXiv 1606.03498.

As the ADM suite defines it (arXiv 2105.05233): logits without their bias, the
images in the order of the file, one score per 5,000 of them, and the mean of
the scores.
"""

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Float

SPLIT = 5000


class InceptionScore:
  """Streaming score: keeps one vector of probabilities per split.

  KL(p || q) averaged over a split, with q its mean of p, is the mean of
  sum(p log p) minus sum(q log q): no image's probabilities need be kept.
  """

  def __init__(self, split: int = SPLIT):
    self.split = split
    self.count = 0
    self._scores: list[float] = []
    self._start_split()

  def _start_split(self):
    self._in_split = 0
    self._probabilities: float | Float[np.ndarray, C] = 0.0
    self._negative_entropy = 0.0

  def update(self, logits: Float[np.ndarray, 'B C']):
    """Adds a batch of images, in the order in which they are stored."""
    logits = logits.astype(np.float64)
    while len(logits):
      part = logits[: self.split - self._in_split]
      logits = logits[len(part) :]
      log_p = part - part.max(axis=1, keepdims=True)
      log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
      p = np.exp(log_p)
      self._probabilities = self._probabilities + p.sum(axis=0)
      self._negative_entropy += (p * log_p).sum()
      self._in_split += len(part)
      self.count += len(part)
      if self._in_split == self.split:
        self._scores.append(self._score())
        self._start_split()

  def _score(self) -> float:
    mean = np.asarray(self._probabilities) / self._in_split
    seen = mean[mean > 0]  # 0 log 0 is 0
    entropy = -(seen * np.log(seen)).sum()
    return float(np.exp(self._negative_entropy / self._in_split + entropy))

  def result(self) -> tuple[float, float]:
    """Mean and standard deviation over the splits.

    Raises:
      ValueError: no images.
    """
    if not self.count:
      raise UserError('The Inception Score of no images is undefined.')
    rest = [self._score()] if self._in_split else []
    scores = self._scores + rest
    return float(np.mean(scores)), float(np.std(scores))
