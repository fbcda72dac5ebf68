"""Edits of captioned digits by words, whose success can be told offline.

  python -m pixeldit_jax.demo.caption_edits build/edits 500
  pixeldit edit --workdir=build/quickstart_t2i/run --out=build/edited \\
    --table=build/edits/colour.csv --grow=1 --measure --judge=captions

writes digits that `digit_classifier` never saw, and two tables of edits of
them: to another colour, and to another digit. Source and target are the caption
of the picture and the same with one word changed. What is to change is the
glyph itself for a colour, and the box that holds any digit for a digit.
"""

import csv
import io
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.data.sources.captioned_digits import (
  COLOURS,
  PLACES,
  REACH,
  SCALE,
  SIDE,
  WORDS,
  draw,
  write_caption,
)
from pixeldit_jax.data.sources.mnist_digits import load_digits
from pixeldit_jax.demo.digit_classifier import held_out
from pixeldit_jax.editing.edit_set import FIELDS, Edit

KINDS = ('colour', 'digit')
GLYPH = 'not:colour:0,0,0,30'  # the pixels that are not black
_BOX = round(20 * SCALE)  # MNIST's digits are 20 x 20 at most
_WORDING = '{colour} {word} {place}'


def edit_of(kind: str, number: int) -> tuple[np.ndarray, Edit]:
  """One picture, uint8 [20, 20, 3], and what it is to become.

  Args:
    kind: 'colour' or 'digit': what changes, to another one drawn at random.
    number: of the edit; it decides everything.
  """
  images, labels = load_digits()
  unseen = np.flatnonzero(held_out())
  random = np.random.default_rng((KINDS.index(kind), number))
  index = random.choice(unseen)
  shown: dict[str, Any] = dict(
    digit=int(labels[index]),
    colour=str(random.choice(list(COLOURS))),
    place=str(random.choice(list(PLACES))),
  )
  every = list(COLOURS) if kind == 'colour' else list(range(len(WORDS)))
  others = [value for value in every if value != shown[kind]]
  wanted = shown | {kind: others[random.integers(len(others))]}
  source, target = (write_caption(_WORDING, **s) for s in (shown, wanted))
  picture = draw(images[index, ..., 0], shown['colour'], shown['place'])
  region = GLYPH if kind == 'colour' else _box(shown['place'])
  name = f'pictures/{kind}_{number:04d}.png'
  return picture, Edit(name, target, source, region=region)


def _box(place: str) -> str:
  """The box that any digit at a place is in."""
  down, right = ((SIDE - _BOX) // 2 + REACH * s for s in PLACES[place])
  return f'box:{right},{down},{right + _BOX},{down + _BOX}'


def write_edits(out: pathlib.Path, count: int) -> None:
  """Writes `count` pictures of each kind, and a table of each."""
  (out / 'pictures').mkdir(parents=True, exist_ok=True)
  for kind in KINDS:
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator='\n')
    table.writeheader()
    for number in range(count):
      picture, edit = edit_of(kind, number)
      Image.fromarray(picture).save(out / edit.image)
      table.writerow(vars(edit))
    files.write_text(out / f'{kind}.csv', text.getvalue())


if __name__ == '__main__':
  write_edits(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
