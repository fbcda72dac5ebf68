"""Captions that an encoder reads while training: no embedding is stored.

A stored caption costs 2 T C bytes, written once and read at each use; read anew
it costs about 2 T operations for each weight of the encoder, at each use.
"""

from typing import Any

import numpy as np

from pixeldit_jax.data.caption_sampler import ARRAYS, MASK, TEXT
from pixeldit_jax.data.source import ArrayInfo, Example, Source
from pixeldit_jax.data.sources.random_word_embeddings import MadeEmbeddings
from pixeldit_jax.encoders.text import TextEncoder
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Int


class EncodedSource(Source):
  """A source with captions, and what an encoder will make of them.

  Attributes:
    captioned: the source itself, whose examples have no embeddings.
    encoder: reads the captions of a batch, see `encode`.
  """

  captions = True

  def __init__(self, captioned: Source, encoder: TextEncoder | WordEncoder):
    if not captioned.captions:
      raise UserError(
        'data.encode_texts=True with images that have no captions: name a '
        'data.source that has them.'
      )
    self.captioned, self.encoder = captioned, encoder
    self.class_names, self.buckets = captioned.class_names, captioned.buckets
    self.resolution = captioned.resolution
    null = zip(ARRAYS, map(np.asarray, encoder.encode([''])))
    made: dict[str, ArrayInfo] = {
      name: MadeEmbeddings(array[0], encoder.meta) for name, array in null
    }
    self.arrays = {**captioned.arrays, **made}

  def check(self, **options) -> None:
    self.captioned.check(**options)

  def bucket_of_examples(self) -> Int[np.ndarray, 'N']:
    return self.captioned.bucket_of_examples()

  def __len__(self) -> int:
    return len(self.captioned)

  def __getitem__(self, index: int) -> Example:
    return self.captioned[index]

  def encode(self, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with the entries 'text' and 'text_mask' of its captions.

    Devices of this process alone are used, between two steps.
    """
    tokens, mask = self.encoder.encode(batch['caption'])
    return batch | {TEXT: tokens, MASK: mask}
