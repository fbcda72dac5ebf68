"""The captions of an image: where they come from, and which one is used.

A caption has a kind (who wrote it, for example 'human' or the name of a
network; '' if nobody says) and may have a score (how well it fits the image).
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pixeldit_jax.errors import UserError

SUFFIXES = ('.txt', '.caption', '.json')  # of sidecars, in any case
# Of a folder of images; the first that is there is read. Those of Flickr are
# called captions.txt.
TABLES = ('metadata.csv', 'metadata.jsonl', 'captions.txt')
FORMS = (
  'IMAGE.txt, IMAGE.caption or IMAGE.json with or without the ending of the '
  'image, and a table metadata.csv, metadata.jsonl or captions.txt'
)
_KEYS = ('caption', 'text', 'prompt')
_FILES = ('file_name', 'image', 'filename')  # columns that name the image


class Caption(NamedTuple):
  """One caption of an image."""

  text: str
  kind: str = ''
  score: float | None = None


def parse(value: Any) -> list[Caption]:
  """Returns the captions in what a JSON file or a row of a table holds.

  That is a text; or a dict with a text or a list of texts under 'caption',
  'text' or 'prompt'; or one with 'captions', a list of texts and such dicts,
  or a dict of them by kind. A dict may have a 'kind' and a 'score'. A null
  where a text is due is no caption.

  Raises:
    KeyError: if there is none of these.
    UserError: for a score that is no number.
  """
  if isinstance(value, str):
    # Half of an emoji, where a text was cut, is no character.
    text = value.strip().encode(errors='replace').decode()
    return [Caption(text)] if text else []
  if isinstance(value, list):
    return [caption for item in value for caption in parse(item)]
  if not isinstance(value, dict):
    raise KeyError(' or '.join(_KEYS))
  several = value.get('captions')
  if isinstance(several, dict):
    return [
      caption._replace(kind=kind)
      for kind, item in several.items()
      for caption in parse(item)
    ]
  if isinstance(several, list):
    return parse(several)
  for key in _KEYS:
    if isinstance(value.get(key), str | list):
      score = value.get('score')
      kind = str(value.get('kind') or '')
      score = None if score in (None, '') else float(score)
      return [
        caption._replace(kind=kind, score=score)
        for caption in parse(value[key])
      ]
  if any(key in value and value[key] is None for key in (*_KEYS, 'captions')):
    return []
  raise KeyError(' or '.join(_KEYS))


def read_file(path: str) -> list[Caption]:
  """Reads the captions of a sidecar of an image; a text file is one caption.

  Raises:
    OSError, UnicodeDecodeError, ValueError, KeyError: if it cannot be used.
  """
  with open(path, encoding='utf-8-sig') as file:
    text = file.read()
  is_json = path.lower().endswith('.json')
  return parse(json.loads(text) if is_json else text)


def _read_rows(name: str, file) -> Iterator[dict[str, Any]]:
  """The rows of a table, by the ending of its name.

  A `.txt` is a table where its first line names an image and a caption.
  """
  if name.endswith('.jsonl'):
    yield from (json.loads(line) for line in file if line.strip())
    return
  delimiter = ','
  if name.endswith('.txt'):
    header = file.readline().lower()
    file.seek(0)
    delimiter = '|' if '|' in header else ','
    columns = {column.strip() for column in header.split(delimiter)}
    if not columns & set(_FILES) or not columns & set(_KEYS):
      return  # the caption of an image called captions
  for row in csv.DictReader(file, delimiter=delimiter, skipinitialspace=True):
    yield {(key or '').strip(): value for key, value in row.items()}


def read_table(root: str) -> dict[str, list[Caption]]:
  """Reads the captions of the images in a folder, by file name.

  Rows of one file are its several captions. Columns: 'file_name' (or 'image'),
  one of 'caption', 'text' and 'prompt', and perhaps 'kind' and 'score'.

  Raises:
    UserError: if a row lacks what it needs; without a table, none.
  """
  table: dict[str, list[Caption]] = {}
  for name in TABLES:
    path = os.path.join(root, name)
    if not os.path.exists(path):
      continue
    # Spreadsheets write a mark before the first column.
    with open(path, encoding='utf-8-sig', newline='') as file:
      done = 0
      try:
        for row in _read_rows(name, file):
          column = next((key for key in _FILES if key in row), _FILES[0])
          table.setdefault(row[column], []).extend(parse(row))
          done += 1
      except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
          f"{path}, row {done + 1}: expected the columns 'file_name' and one "
          f'of {", ".join(_KEYS)}, and numbers under score; {error}'
        ) from error
    break
  return table


def parse_weights(text: str) -> dict[str, float] | None:
  """'human=1,long=3' to a weight for each kind of caption; None for ''.

  Raises:
    UserError: anything else, or a weight below 0.
  """
  try:
    pairs = [part.rsplit('=', 1) for part in text.split(',') if part]
    weights = {kind.strip(): float(weight) for kind, weight in pairs}
    if any(weight < 0 for weight in weights.values()):
      raise UserError('a weight below 0')
  except ValueError as error:
    raise UserError(
      f'data.caption_weights={text!r}: write kinds and weights as '
      f'human=1,long=3 ({error}).'
    ) from error
  return weights or None


def choose(
  captions: Sequence[Caption],
  random: np.random.Generator,
  *,
  weights: Mapping[str, float] | None = None,
  min_score: float | None = None,
) -> int | None:
  """Draws the caption that an image is shown with; None if it has none.

  Args:
    captions: of one image.
    random: decides.
    weights: how often each kind is drawn, relative to the others; a kind that
      is not among them never. Captions without a kind have the weight 1,
      unless '' is given another. None draws all captions alike.
    min_score: captions of a lower score are left out; those without a score
      stay. If none would be left, the one with the best score is used.

  Returns:
    Its index in `captions`.
  """
  chances = np.array(
    [
      1.0 if weights is None else weights.get(c.kind, 0.0 if c.kind else 1.0)
      for c in captions
    ]
  )
  if not chances.any():
    return None
  if min_score is not None:
    scores = np.array(
      [np.inf if c.score is None else c.score for c in captions]
    )
    scores = np.where(chances > 0, scores, -np.inf)
    chances = np.where(scores >= min(min_score, scores.max()), chances, 0.0)
  return int(random.choice(len(captions), p=chances / chances.sum()))
