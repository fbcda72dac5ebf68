"""Draws the text that an image is trained with: one of its captions, or none.

Sources with embeddings have the arrays 'text' [captions, T, C], bf16, and
'text_mask' [captions, T], and both of the empty text as constants 'null'.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.source import Example, Source

TEXT, MASK, NULL = 'text', 'text_mask', 'null'
ARRAYS = (TEXT, MASK)


class CaptionSampler:
  """A `load_example.Pick`: the entries 'text', 'text_mask' and 'caption'.

  An image without captions gets the empty text, and so does any other with the
  probability `dropout`: classifier-free guidance needs both in training.
  """

  def __init__(
    self,
    source: Source,
    *,
    dropout: float,
    weights: Mapping[str, float] | None = None,
    min_score: float | None = None,
  ):
    """Reads the embedding of the empty text.

    Args:
      source: with the arrays `ARRAYS`.
      dropout: probability of the empty text, in place of a caption.
      weights: of the kinds of captions, see `captions.choose`.
      min_score: of captions, see `captions.choose`.
    """
    self._null = {name: source.arrays[name].constant(NULL) for name in ARRAYS}
    self._dropout = dropout
    self._weights, self._min_score = weights, min_score

  def __call__(
    self, example: Example, random: np.random.Generator
  ) -> dict[str, Any]:
    index = None
    if random.random() >= self._dropout:
      index = captions.choose(
        example['captions'],
        random,
        weights=self._weights,
        min_score=self._min_score,
      )
    if index is None:
      return self._null | {'caption': ''}
    text = {name: example['arrays'][name][index] for name in ARRAYS}
    return text | {'caption': example['captions'][index].text}
