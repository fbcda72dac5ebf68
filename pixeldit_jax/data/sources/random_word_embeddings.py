"""A source with captions whose words are embedded as random vectors."""

from typing import Any

import numpy as np

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError


class WordSource(Source):
  """A source with captions, their words embedded as they are read."""

  captions = True
  arrays = ARRAYS

  def __init__(self, source: Source):
    if not source.captions:
      raise UserError('data source words: the images have no captions')
    self._source = source
    self._encoder = WordEncoder()
    self.class_names = source.class_names
    null = self._encode([''])
    self.stored = {
      name: _Constant(null[name][0], self._encoder.meta) for name in ARRAYS
    }

  def check(self, **expected):
    self._source.check(**expected)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self._source[index]
    return example | self._encode([c.text for c in example['captions']])

  def _encode(self, texts: list[str]) -> dict[str, np.ndarray]:
    return dict(zip(ARRAYS, self._encoder.encode(texts)))


class _Constant:
  """What `WordSource` has of a stored array: its null text, and its meta."""

  def __init__(self, null: np.ndarray, meta: dict[str, Any]):
    self._null, self.meta = null, meta

  def constant(self, name: str) -> np.ndarray:
    return {NULL: self._null}[name]
