"""Handwritten digits in six colours and four positions, with captions.

What a small text-to-image network can learn in minutes, and be judged on: real
digits (see `digits`), made small and tinted, somewhere on a black square. Some
pairs of digit and colour are held out: a network that draws them has taken the
words apart.
"""

import sys

import numpy as np
from PIL import Image

from pixeldit_jax.data.captions import Caption
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.sources.mnist_digits import load_digits
from pixeldit_jax.typing import UInt8

SIDE = 20
SCALE = 0.6  # of MNIST's digits, which are 20 x 20 at most
REACH = 4  # pixels from the middle to a position
COPIES = 2  # of each digit, in another colour and position

WORDS = tuple('zero one two three four five six seven eight nine'.split())
# The largest channel is full in all of them, so that it is the grey digit.
COLOURS = {
  'red': (255, 80, 80),
  'green': (80, 255, 80),
  'blue': (80, 80, 255),
  'yellow': (255, 255, 80),
  'purple': (255, 80, 255),
  'white': (255, 255, 255),
}
# Down and right of the middle.
PLACES = {
  'on the left': (0, -1),
  'on the right': (0, 1),
  'at the top': (-1, 0),
  'at the bottom': (1, 0),
}
# Pairs that no image has, one for each digit.
HELD_OUT = tuple(
  (digit, list(COLOURS)[digit % len(COLOURS)]) for digit in range(10)
)
# By kind; every image has a caption of each, in one of these wordings.
WORDINGS = {
  'sentence': (
    'a handwritten {word} in {colour} {place}',
    '{place}, the number {word}, written in {colour}',
    'a picture of a {colour} {figure} {place}',
  ),
  'tags': ('{colour} {word} {place}', '{colour} digit {figure} {place}'),
}


def write_caption(wording: str, digit: int, colour: str, place: str) -> str:
  """One of `WORDINGS` for a picture."""
  return wording.format(
    word=WORDS[digit], figure=digit, colour=colour, place=place
  )


def held_out_prompts(count: int) -> list[str]:
  """Prompts for the held-out pairs in turn, in all places and wordings."""
  wordings = [wording for several in WORDINGS.values() for wording in several]
  places = list(PLACES)
  prompts = []
  for i in range(count):
    round_, pair = divmod(i, len(HELD_OUT))
    # Their numbers have no common factor: every place meets every wording.
    place = places[round_ % len(places)]
    wording = wordings[round_ % len(wordings)]
    prompts.append(write_caption(wording, *HELD_OUT[pair], place))
  return prompts


def draw(
  grey: UInt8[np.ndarray, '28 28'], colour: str, place: str
) -> UInt8[np.ndarray, '20 20 3']:
  """Tints a digit, made small, and puts the box around it at a place."""
  ink = np.argwhere(grey)
  (top, left), (bottom, right) = ink.min(axis=0), ink.max(axis=0) + 1
  box = Image.fromarray(grey[top:bottom, left:right])
  size = [max(1, round(SCALE * side)) for side in box.size]
  body = np.asarray(box.resize(size, Image.Resampling.LANCZOS), np.uint16)
  canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
  top, left = (
    (SIDE - size) // 2 + REACH * step
    for size, step in zip(body.shape, PLACES[place])
  )
  bottom, right = top + body.shape[0], left + body.shape[1]
  tint = np.array(COLOURS[colour])
  canvas[top:bottom, left:right] = body[..., None] * tint // 255
  return canvas


class CaptionedDigits(Source):
  """`COPIES` images of each of the 5,000 digits, none of a held-out pair."""

  class_names = tuple(WORDS)
  captions = True

  def __init__(self):
    self._images, self._labels = load_digits()

  def __len__(self) -> int:
    return COPIES * len(self._labels)

  def __getitem__(self, index: int) -> Example:
    digit = index % len(self._labels)
    label = int(self._labels[digit])
    random = np.random.default_rng(index)  # what is drawn depends on it alone
    colour = random.choice([c for c in COLOURS if (label, c) not in HELD_OUT])
    place = random.choice(list(PLACES))
    captions = [
      Caption(
        write_caption(random.choice(wordings), label, colour, place), kind
      )
      for kind, wordings in WORDINGS.items()
    ]
    return {
      'image': draw(self._images[digit, ..., 0], colour, place),
      'label': label,
      'name': f'{index:05d}: {WORDS[label]} in {colour} {place}',
      'captions': captions,
    }


if __name__ == '__main__':
  print('\n'.join(held_out_prompts(int(sys.argv[1]))))
