"""The text that an image is trained with: one of its captions, or none.

Sources whose examples carry embeddings have the arrays 'text' [captions, T, C],
bf16, and 'text_mask' [captions, T], and both of no text as constants 'null'.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.source import Example, Source

TEXT, MASK, NULL = 'text', 'text_mask', 'null'
ARRAYS = (TEXT, MASK)


class CaptionSampler:
  """A `pipeline.Pick`: the entries 'text', 'text_mask' and 'caption'.

  An image without captions, and any with the probability `dropout`, gets the
  null text: training on both makes classifier-free guidance possible.
  """

  def __init__(
    self,
    source: Source,
    *,
    dropout: float,
    weights: Mapping[str, float] | None = None,
    min_score: float | None = None,
  ):
    """Keeps the null text; the others are those of `captions.choose`."""
    self._null = {name: source.arrays[name].constant(NULL) for name in ARRAYS}
    self._dropout = dropout
    self._choice = dict(weights=weights, min_score=min_score)

  def __call__(
    self, example: Example, random: np.random.Generator
  ) -> dict[str, Any]:
    index = None
    if random.random() >= self._dropout:
      index = captions.choose(example['captions'], random, **self._choice)
    if index is None:
      return self._null | {'caption': ''}
    text = {name: example['arrays'][name][index] for name in ARRAYS}
    return text | {'caption': example['captions'][index].text}
