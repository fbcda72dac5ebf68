"""Ranks of captions, and the probe that scores them."""

import numpy as np
import pytest

from pixeldit_jax.metrics.caption_rank import caption_ranks, fit_probe


def test_ranks_are_those_counted_by_hand():
  scores = np.array([[3.0, 1, 2], [5, 4, 1], [0, 7, 6]])
  found = caption_ranks(scores, ['a cat', 'a dog', 'a fox'])
  assert found == dict(
    caption_rank=pytest.approx((1 + 0.5 + 0.5) / 3),
    caption_top1=pytest.approx(1 / 3),
  )


def test_equal_captions_are_no_others_and_ties_are_chance():
  same = caption_ranks(np.array([[1.0, 9], [9, 1]]), ['a', 'a'])
  assert same['caption_top1'] == 1
  flat = caption_ranks(np.zeros((4, 4)), list('abcd'))
  assert flat == dict(caption_rank=0.5, caption_top1=0.0)


@pytest.mark.parametrize('noise, least', [(0.1, 0.97), (1.0, 0.8)])
def test_a_probe_finds_what_features_say_of_texts(noise, least):
  """More features than images, of which some tell the text."""
  rng = np.random.default_rng(0)
  texts = rng.normal(size=(160, 6))
  features = np.tile(texts @ rng.normal(size=(6, 40)), 5)
  features += noise * rng.normal(size=features.shape) * features.std()
  probe = fit_probe(features[:100], texts[:100])
  scores = probe.scores(features[100:], texts[100:])
  names = [str(i) for i in range(60)]
  assert caption_ranks(scores, names)['caption_rank'] > least
  shuffled = fit_probe(rng.permutation(features[:100]), texts[:100])
  by_chance = shuffled.scores(features[100:], texts[100:])
  assert 0.3 < caption_ranks(by_chance, names)['caption_rank'] < 0.7
