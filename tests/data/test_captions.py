"""Captions in every form that is read, and which one is drawn."""

import numpy as np
import pytest

from pixeldit_jax.data.captions import Caption, choose, parse, parse_weights


@pytest.mark.parametrize(
  'value, want',
  [
    (' a cat\n', [Caption('a cat')]),
    ('  ', []),
    ('a cat \ud83d', [Caption('a cat ?')]),
    ({'prompt': 'a'}, [Caption('a')]),
    ({'caption': None, 'key': '1'}, []),
    ({'caption': None, 'text': 'a'}, [Caption('a')]),
    ({'caption': ['a', 'b']}, [Caption('a'), Caption('b')]),
    (
      {'text': 'a', 'kind': 'x', 'score': '0.5'},
      [Caption('a', 'x', 0.5)],
    ),
    (
      {'captions': ['a', {'text': 'b', 'score': 2}]},
      [Caption('a'), Caption('b', '', 2.0)],
    ),
    (
      {'captions': {'human': 'a', 'vlm': {'text': ['b', 'c'], 'score': 1}}},
      [Caption('a', 'human'), Caption('b', 'vlm', 1.0),
       Caption('c', 'vlm', 1.0)],
    ),
  ],
)  # fmt: skip
def test_every_form_is_read(value, want):
  assert parse(value) == want


@pytest.mark.parametrize('value', [None, 3, {}, {'title': 'a'}, [1]])
def test_what_holds_no_caption_is_refused(value):
  with pytest.raises(KeyError, match='caption or text or prompt'):
    parse(value)


GIVEN = [
  Caption('a', 'human'),
  Caption('b', 'vlm', 0.9),
  Caption('c', 'vlm', 0.2),
]


def shares(captions=GIVEN, **options):
  random = np.random.default_rng(0)
  drawn = [choose(captions, random, **options) for _ in range(3000)]
  return np.bincount(drawn, minlength=3) / len(drawn)


@pytest.mark.parametrize(
  'options, want',
  [
    ({}, [1 / 3, 1 / 3, 1 / 3]),
    ({'weights': {'human': 2, 'vlm': 1}}, [0.5, 0.25, 0.25]),
    ({'weights': {'vlm': 1}}, [0, 0.5, 0.5]),
    ({'min_score': 0.5}, [0.5, 0.5, 0]),
    ({'min_score': 0.5, 'weights': {'human': 3, 'vlm': 1}}, [0.75, 0.25, 0]),
    # None is good enough: the best there is.
    ({'min_score': 0.95, 'weights': {'vlm': 1}}, [0, 1, 0]),
  ],
)
def test_captions_are_drawn_by_weight_above_the_score(options, want):
  np.testing.assert_allclose(shares(**options), want, atol=0.03)


def test_an_image_without_a_caption_that_may_be_drawn_has_none():
  random = np.random.default_rng(0)
  assert choose([], random) is None
  assert choose(GIVEN, random, weights={'other': 1}) is None


def test_captions_without_a_kind_are_drawn_unless_their_weight_is_zero():
  given = [Caption('a'), Caption('b', 'long')]
  want = {'long=2,tags=1': [1 / 3, 2 / 3, 0], 'long=2,=0': [0, 1, 0]}
  for text, expected in want.items():
    weights = parse_weights(text)
    np.testing.assert_allclose(
      shares(given, weights=weights), expected, atol=0.03
    )
