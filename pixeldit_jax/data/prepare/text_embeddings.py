"""Stores what a text encoder makes of the captions of prepared images.

These are the arrays that `caption_sampler` reads.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pixeldit_jax.data.caption_sampler import MASK, NULL, TEXT
from pixeldit_jax.data.prepare.precompute import (
  Computation,
  precompute,
  refuse_other,
)
from pixeldit_jax.data.prepare.shard_job import ALONE, Peers, Runner, run_here
from pixeldit_jax.data.source import Example
from pixeldit_jax.data.sources import shards
from pixeldit_jax.encoders.text import TextEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import AnyArray


class Encoded(NamedTuple):
  """What was encoded.

  Attributes:
    images: their number.
    without_caption: of them; they have the embedding of the empty text.
  """

  images: int
  without_caption: int


def store(
  path: str,
  encoder: TextEncoder,
  *,
  batch_size: int = 0,
  peers: Peers = ALONE,
  runner: Runner = run_here,
) -> Encoded:
  """Stores what an encoder makes of all captions.

  Args:
    path: a folder of shards.
    encoder: its name, checksum, tokens and instruction are stored too.
    batch_size: images at once; 0 is enough to keep all devices busy.
    peers: the processes that share the work.
    runner: of this process's shards; an encoder is opened again in others.

  Raises:
    UserError: no image has a caption, or another encoder's embeddings are
      there; see also `precompute`.
  """
  prepared = shards.read_manifest(path)
  if not prepared['captions']:
    raise UserError(
      f'{path} has no captions: prepare images that have them (a .txt or .json '
      'next to each, or metadata.csv; see data/captions.py)'
    )
  masks = Computation(
    name=MASK,
    compute=functools.partial(_encode_each, encoder.mask),
    meta=encoder.meta,
    load=_texts_of,
    dtype='bool',
    batch_size=batch_size or 4 * encoder.at_once,
  )
  tokens = dataclasses.replace(
    masks,
    name=TEXT,
    compute=functools.partial(
      _encode_each, functools.partial(_embeddings, encoder)
    ),
    dtype='bfloat16',
    cut=functools.partial(_cut, encoder),
  )
  # Both, before hours of work on the first.
  for computation in (tokens, masks):
    refuse_other(path, computation)
  null, null_mask = map(np.asarray, encoder.encode(['']))
  tokens = dataclasses.replace(tokens, constants={NULL: null[0]})
  masks = dataclasses.replace(masks, constants={NULL: null_mask[0]})
  for computation in (tokens, masks):
    precompute(path, computation, peers, runner)
  count = prepared['examples']
  return Encoded(images=count, without_caption=count - prepared['captions'])


def _texts_of(example: Example) -> list[str]:
  return [caption.text for caption in example['captions']]


def _embeddings(encoder: TextEncoder, texts: list[str]) -> AnyArray:
  return encoder.encode(texts)[0]


def _cut(encoder: TextEncoder) -> int:
  return getattr(encoder, 'truncated', 0)  # of word vectors, nothing is


def _encode_each(
  encode: Callable[[list[str]], AnyArray], texts: list[list[str]]
) -> list[np.ndarray]:
  """Returns an array [K, ...] for the K texts of each image.

  All texts are encoded at once.
  """
  flat = [text for several in texts for text in several]
  # With no text at all, the shape is still that of one.
  rows = np.asarray(encode(flat or ['']))[: len(flat)]
  return np.split(rows, np.cumsum([len(several) for several in texts])[:-1])
