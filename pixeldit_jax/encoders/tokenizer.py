"""Texts to token numbers of one length, by the package `tokenizers`.

Every tokenizer of Hugging Face's models that is fast is a `tokenizer.json` of
this package.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Bool, Int


class Tokens(NamedTuple):
  """Token numbers of texts, cut, or filled up on the right.

  Attributes:
    ids: [B, T], int32.
    mask: True for tokens of the text [B, T].
    cut: True for texts that were longer [B].
  """

  ids: Int[np.ndarray, 'B T']
  mask: Bool[np.ndarray, 'B T']
  cut: Bool[np.ndarray, 'B']


class Tokenizer:
  """A tokenizer that cuts and fills up on the right.

  Attributes:
    json: all that it does, but lengths.
  """

  def __init__(self, tokenizer: Any, pad_token: str | None):
    """Takes a `tokenizers.Tokenizer` as it was read, and its padding.

    Raises:
      UserError: it has no such token.
    """
    self.json = tokenizer.to_str()
    self._tokenizer, self._pad = tokenizer, pad_token
    if pad_token is None or tokenizer.token_to_id(pad_token) is None:
      raise UserError(
        f'a tokenizer with the padding {pad_token!r}: expected one of its '
        'tokens; name it as pad_token in tokenizer_config.json.'
      )

  def length(self, text: str) -> int:
    """Tokens of a text, with those that begin and end any text."""
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    return len(self._tokenizer.encode(text).ids)

  def tokenize(self, texts: Sequence[str], length: int) -> Tokens:
    """Token numbers of texts, `length` for each."""
    self._tokenizer.enable_truncation(length)
    self._tokenizer.enable_padding(
      length=length,
      pad_id=self._tokenizer.token_to_id(self._pad),
      pad_token=self._pad,
    )
    found = self._tokenizer.encode_batch(list(texts))
    return Tokens(
      np.array([f.ids for f in found], np.int32).reshape(-1, length),
      np.array([f.attention_mask for f in found], bool).reshape(-1, length),
      np.array([bool(f.overflowing) for f in found], bool),
    )
