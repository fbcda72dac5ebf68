"""Stores what a text encoder makes of the captions of prepared images.

These are the arrays that `caption_sampler` reads.
"""

from typing import Any

import numpy as np

from pixeldit_jax.data.caption_sampler import MASK, NULL, TEXT
from pixeldit_jax.data.prepare import precompute
from pixeldit_jax.data.sources import shards
from pixeldit_jax.encoders.text import TextEncoder
from pixeldit_jax.errors import UserError


def store(
  path: str, encoder: TextEncoder, *, batch_size: int = 0, **shared
) -> dict[str, Any]:
  """Stores what an encoder makes of all captions, and tells what there was.

  Args:
    path: a folder of shards.
    encoder: its name, checksum, tokens and instruction are stored too.
    batch_size: images at once; 0 is enough to keep all devices busy.
    shared: how processes share the work, see `side_array_writer.write`.

  Returns:
    'images', those 'without' a caption, and the 'manifest' of the side array.

  Raises:
    UserError: if no image has a caption, or another encoder's embeddings are
      there; see also `side_array_writer`.
  """
  prepared = shards.read_manifest(path)
  if not prepared['captions']:
    raise UserError(
      f'{path} has no captions: prepare images that have them (a .txt or .json '
      'beside each, or metadata.csv; see data/captions.py)'
    )
  # Both, before hours of work on the first.
  for name, dtype in ((TEXT, 'bfloat16'), (MASK, 'bool')):
    precompute.refuse_other(path, name, meta=encoder.meta, dtype=dtype)
  null, null_mask = encoder.encode([''])
  shared |= dict(
    meta=encoder.meta,
    load=lambda example: [caption.text for caption in example['captions']],
    batch_size=batch_size or 4 * encoder.at_once,
  )
  manifest = precompute.write(
    *(path, TEXT, lambda texts: _each(lambda t: encoder.encode(t)[0], texts)),
    constants={NULL: null[0]},
    **shared,
  )
  precompute.write(
    *(path, MASK, lambda texts: _each(encoder.mask, texts)),
    constants={NULL: null_mask[0]},
    dtype='bool',
    **shared,
  )
  count = prepared['examples']
  without = count - prepared['captions']
  return dict(images=count, without=without, manifest=manifest)


def _each(encode, texts: list[list[str]]) -> list[np.ndarray]:
  """An array [K, ...] for the K texts of each image, all encoded at once."""
  flat = [text for several in texts for text in several]
  # With no text at all, the shape is still that of one.
  rows = encode(flat or [''])[: len(flat)]
  return np.split(rows, np.cumsum([len(several) for several in texts])[:-1])
