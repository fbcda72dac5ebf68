"""A source whose captions are embedded as one random vector for each word."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError


class RandomWordEmbeddings(Source):
  """A source with captions and embeddings that are made as they are read."""

  captions = True

  def __init__(self, source: Source):
    if not source.captions:
      raise UserError(
        'data source words: the images have no captions; name a source that '
        'has them, as words:captioned_digits'
      )
    self._source = source
    self._encoder = WordEncoder()
    self.class_names = source.class_names
    null = self._encode([''])
    self.arrays = {
      name: MadeEmbeddings(null[name][0], self._encoder.meta) for name in ARRAYS
    }

  def check(self, **options) -> None:
    self._source.check(**options)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    example = self._source[index]
    texts = [caption.text for caption in example['captions']]
    return example | {'arrays': self._encode(texts)}

  def _encode(self, texts: list[str]) -> dict[str, np.ndarray]:
    tokens, mask = self._encoder.encode(texts)
    return dict(zip(ARRAYS, (np.asarray(tokens), np.asarray(mask))))


class MadeEmbeddings:
  """An `ArrayInfo` of embeddings that are not stored.

  It knows what makes them, and the array of the empty text.
  """

  shape: tuple[int, ...] | None = None  # one for each caption
  meta: Mapping[str, Any]

  def __init__(self, null: np.ndarray, meta: dict[str, Any]):
    self._null, self.dtype, self.meta = null, null.dtype, meta

  def constant(self, name: str) -> np.ndarray:
    return {NULL: self._null}[name]
