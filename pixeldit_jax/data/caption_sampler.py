"""Draws the text that an image is trained with: one of its captions, or none.

Sources with embeddings have the arrays 'text' [captions, T, C], bf16, and
'text_mask' [captions, T], and both of the empty text as constants 'null'.
"""

import collections
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

log = logging.getLogger(__name__)

TEXT, MASK, NULL = 'text', 'text_mask', 'null'
ARRAYS = (TEXT, MASK)


def check_captions(
  source: Source, weights: Mapping[str, float] | None, looked_at: int = 256
) -> None:
  """Looks at some images for captions that may be drawn.

  Tells how many of them have none, and which kinds of `weights` none has.

  Args:
    source: with captions.
    weights: of the kinds, see `captions.choose`.
    looked_at: images, evenly spread over the source.

  Raises:
    UserError: there are none at all, so that no text would be trained on.
  """
  count = min(looked_at, len(source))
  kinds: collections.Counter[str] = collections.Counter()
  without = read = 0
  for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
    try:
      given = source[index]['captions']
    except (BadExample, OSError):
      continue
    read += 1
    kinds.update({caption.kind for caption in given})
    # Which one is drawn does not matter.
    if (
      captions.choose(given, np.random.default_rng(0), weights=weights) is None
    ):
      without += 1
  there = ', '.join(kind or '(no kind)' for kind in sorted(kinds)) or 'none'
  if read and without == read:
    raise UserError(
      f'none of {read} images has a caption that may be drawn, with '
      f'data.caption_weights={dict(weights or {})}. The kinds there are: '
      f'{there}; give weights to those.'
    )
  if without:
    log.warning(
      '%d of %d images looked at have no caption that may be drawn: they are '
      'trained on without a text',
      *(without, read),
    )
  never = sorted(k for k, w in (weights or {}).items() if w and not kinds[k])
  if never:
    log.warning(
      'data.caption_weights: no caption of %d images looked at is of the kind '
      '%s; there are: %s',
      *(read, ', '.join(kind or "''" for kind in never), there),
    )


class CaptionSampler:
  """A `load_example.Pick`: the entries 'text', 'text_mask' and 'caption'.

  An image without captions gets the empty text, and so does any other with the
  probability `dropout`: classifier-free guidance needs both in training. A
  source without embeddings gives the entry 'caption' alone.
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
      source: with captions, and the arrays `ARRAYS` where they are stored.
      dropout: probability of the empty text, in place of a caption.
      weights: of the kinds of captions, see `captions.choose`.
      min_score: of captions, see `captions.choose`.
    """
    self._null = {
      name: source.arrays[name].constant(NULL)
      for name in ARRAYS
      if name in source.arrays
    }
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
    text = {name: example['arrays'][name][index] for name in self._null}
    return text | {'caption': example['captions'][index].text}
