"""Which columns of a table are the picture, its class and its captions.

What the table declares comes first (an image, a class label), then usual names.
`?image=img&label=y&caption=short,long` decides by hand; an empty name is none.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.sources.byte_index import Part
from pixeldit_jax.errors import UserError

OPTIONS = ('image', 'label', 'caption')
# What a column holds. A declared image or class says so in the table itself.
IMAGE, BYTES, CLASS, INTEGER, TEXT, OTHER = (
  *('image', 'bytes', 'class', 'integer', 'text', 'other'),
)
_IMAGES = (
  *('image', 'img', 'jpg', 'jpeg', 'png', 'webp', 'picture', 'pixels'),
  *('image_bytes', 'bytes', 'image_data', 'content', 'data'),
)
_LABELS = (
  *('label', 'labels', 'cls', 'class', 'class_id', 'class_label', 'target'),
  *('y', 'fine_label', 'label_id'),
)
_CLASS_TEXTS = ('label', 'class', 'cls', 'class_name', 'wnid', 'synset')
_CAPTIONS = (
  *('caption', 'captions', 'text', 'texts', 'prompt', 'prompts', 'txt'),
  *('description', 'sentences', 'sentences_raw', 'alt_text'),
)


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns of a table that are read; '' for no label."""

  image: str
  label: str
  captions: tuple[str, ...]


def choose(
  kinds: Mapping[str, str], options: Mapping[str, str], where: str
) -> Columns:
  """Chooses the columns.

  Args:
    kinds: what each column holds, by its name.
    options: of the spec; see the module.
    where: the table, for errors.

  Raises:
    UserError: if there is no image column, or more than one; it names the
      columns.
  """
  listed = ', '.join(f'{name} ({kind})' for name, kind in kinds.items())
  for option in OPTIONS:
    for name in filter(None, options.get(option, '').split(',')):
      if name not in kinds:
        raise UserError(
          f'{where} has no column {name!r} ({option}=...); it has {listed}'
        )
  image = options.get('image') or _choose_image(kinds, where, listed)
  label = options.get('label')
  if label is None:
    label = _choose_label(kinds)
  given = options.get('caption')
  if given is None:
    chosen = _choose_captions(kinds, taken=(image, label))
  else:
    chosen = tuple(filter(None, given.split(',')))
  return Columns(image, label, chosen)


def _choose_image(kinds: Mapping[str, str], where: str, listed: str) -> str:
  for kind in (IMAGE, BYTES):
    found = [name for name, held in kinds.items() if held == kind]
    best = sorted(
      (name for name in found if name.lower() in _IMAGES),
      key=lambda name: _IMAGES.index(name.lower()),
    )
    if best or len(found) == 1:
      return (best or found)[0]
    if found:
      raise UserError(
        f'{where}: which column is the image, {" or ".join(found)}? Choose it '
        f'by ?image=...; all columns: {listed}'
      )
  raise UserError(
    f'{where} has no column of images (bytes, or a struct with bytes); it has '
    + listed
  )


def _choose_label(kinds: Mapping[str, str]) -> str:
  lower = {name.lower(): name for name in kinds}
  for kind, names in (
    *((CLASS, _LABELS), (INTEGER, _LABELS)),
    (TEXT, _CLASS_TEXTS),
  ):
    for name in names:
      if kinds.get(lower.get(name, '')) == kind:
        return lower[name]
    held = [name for name, what in kinds.items() if what == kind]
    if kind == CLASS and len(held) == 1:
      return held[0]
  return ''


def _choose_captions(
  kinds: Mapping[str, str], taken: Sequence[str]
) -> tuple[str, ...]:
  texts = {
    name.lower(): name
    for name, kind in kinds.items()
    if kind == TEXT and name not in taken
  }
  for name in _CAPTIONS:
    if name in texts:
      return (texts[name],)
  # Several kinds of captions, as 'caption_short' and 'llava_caption'.
  return tuple(
    name
    for lower, name in texts.items()
    if lower.startswith('caption') or lower.endswith(('_caption', '_captions'))
  )


def parse_captions(
  values: Mapping[str, Any], several: bool
) -> list[captions.Caption]:
  """Returns the captions in a row; with several columns, each is a kind.

  Raises:
    KeyError: if a value is neither a text, a list nor a dict with captions.
  """
  found = []
  for name, value in values.items():
    if value is None:
      continue
    items = value
    if isinstance(value, list):
      items = [item for item in value if item is not None]
    for caption in captions.parse(items):
      found.append(
        caption._replace(kind=name) if several and not caption.kind else caption
      )
  return found


def pack_captions(found: Sequence[captions.Caption]) -> bytes:
  """Returns captions as an index keeps them, b'' for none."""
  return json.dumps(found, ensure_ascii=False).encode() if found else b''


def pack_row(row: Mapping[str, Any], path: str) -> bytes:
  """Returns the captions of a row of a table as an index keeps them.

  Raises:
    UserError: if a column of captions holds none.
  """
  try:
    return pack_captions(parse_captions(row, len(row) > 1))
  except (KeyError, ValueError) as error:
    raise UserError(
      f'{path}: the column {", ".join(row)} holds no captions ({error}); '
      'choose others by ?caption=..., or none by ?caption='
    ) from error


def add_labels(part: Part, labels: Sequence[int | str | None] | None):
  """Adds labels to a part: numbers, or texts that name the classes."""
  if labels is None:
    return
  if any(isinstance(label, str) for label in labels):
    numbers: dict[str, int] = {}
    labels = [
      -1 if label is None else numbers.setdefault(str(label), len(numbers))
      for label in labels
    ]
    part.label_names = list(numbers)
  part.rows['label'] = np.array(
    [-1 if label is None else label for label in labels], np.int64
  )


def add_captions(part: Part, packed: Sequence[bytes] | None):
  """Adds captions, as `pack_captions` gives them, to a part."""
  if packed is None:
    return
  sizes = np.array([len(text) for text in packed], np.int64)
  part.rows['caption_size'] = sizes
  part.rows['caption_offset'] = np.cumsum(sizes) - sizes
  part.blobs['captions'] = np.frombuffer(b''.join(packed), np.uint8)
