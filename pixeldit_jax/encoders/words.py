"""The smallest text encoder: a fixed random vector for each word.

It needs no weights and no other package: debug runs and tests train on it. The
order of the words is only in their positions, and no word is near another.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from pixeldit_jax.typing import Bool, Float, TextCondition


class WordEncoder:
  """Used as `encoders.text.TextEncoder` is.

  Attributes:
    width: C, of one word's vector.
    tokens: T, words of a text; what is beyond is cut.
  """

  def __init__(self, tokens: int = 8, width: int = 16):
    self.tokens, self.width = tokens, width

  @property
  def meta(self) -> dict[str, Any]:
    """The settings that decide the embeddings, as JSON values."""
    return dict(encoder='words', width=self.width, tokens=self.tokens)

  def encode(
    self, texts: Sequence[str], *, negative: bool = False
  ) -> TextCondition:
    """Embeddings in bf16, zero after the last word, and True for words."""
    del negative  # there is no instruction to leave out
    shape = len(texts), self.tokens, self.width
    vectors, mask = (
      np.zeros(shape, ml_dtypes.bfloat16),
      np.zeros(shape[:2], bool),
    )
    for i, text in enumerate(texts):
      for j, word in enumerate(text.lower().split()[: self.tokens]):
        vectors[i, j], mask[i, j] = self._vector(word), True
    return TextCondition(vectors, mask)

  def mask(self, texts: Sequence[str]) -> Bool[np.ndarray, 'B T']:
    """Only the mask of `encode`."""
    return np.asarray(self.encode(texts).mask)

  def _vector(self, word: str) -> Float[np.ndarray, 'C']:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], 'big')
    return np.random.default_rng(seed).standard_normal(self.width)
