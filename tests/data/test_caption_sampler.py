"""Which text comes with an image, and how often none."""

import numpy as np
import pytest

from pixeldit_jax.data import captions
from pixeldit_jax.data.caption_sampler import CaptionSampler, check_captions
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.sources.random_word_embeddings import (
  RandomWordEmbeddings,
)
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError


class Colours(Source):
  """40 images; the last has no caption, the others one of each kind."""

  captions = True

  def __len__(self):
    return 40

  def __getitem__(self, index):
    texts = [
      captions.Caption(f'image {index} by hand', 'human', 0.9),
      captions.Caption(f'image {index} by machine', 'machine', 0.1),
    ]
    return {
      'image': np.full((4, 4, 3), index, np.uint8),
      'label': -1,
      'name': str(index),
      'captions': texts if index < 39 else [],
    }


def batches(count, rows=None, **options):
  source = RandomWordEmbeddings(Colours())
  pick = CaptionSampler(source, **({'dropout': 0.3} | options.pop('text', {})))
  options = LoaderOptions(resolution=4, batch_size=20, seed=3, **options)
  data = make_batches(source, options, rows=rows, pick=pick)
  found = [next(data) for _ in range(count)]
  data.close()
  return found


def test_the_text_is_that_of_the_caption():
  encoder = WordEncoder()
  for batch in batches(4):
    text, mask = encoder.encode(batch['caption'])
    np.testing.assert_array_equal(batch['text'], text)
    np.testing.assert_array_equal(batch['text_mask'], mask)
    for i, caption in zip(batch['id'], batch['caption']):
      assert caption in ('', f'image {i} by hand', f'image {i} by machine')
      assert i < 39 or not caption


def test_texts_are_dropped_at_the_rate_and_drawn_by_weight_and_score():
  def shares(**text):
    found = [c for b in batches(40, text=text) for c in b['caption']]
    kinds = [c.rsplit(' ', 1)[-1] for c in found]
    return [kinds.count(kind) / 800 for kind in ('', 'hand', 'machine')]

  assert shares(dropout=0.3) == pytest.approx([0.32, 0.34, 0.34], abs=0.06)
  weights = dict(human=1, machine=3)
  expected = [0.025, 0.24, 0.73]
  assert shares(dropout=0, weights=weights) == pytest.approx(expected, abs=0.06)
  assert shares(dropout=0, min_score=0.5) == [0.025, 0.975, 0]


def test_hosts_and_workers_draw_the_same_texts():
  whole = batches(3)
  parts = [batches(3, rows=range(p, 20, 2), num_threads=1) for p in (0, 1)]
  for want, *halves in zip(whole, *parts):
    for p, half in enumerate(halves):
      assert half['caption'] == want['caption'][p::2]
      np.testing.assert_array_equal(half['text'], want['text'][p::2])


def test_words_have_their_own_vectors_and_longer_texts_are_cut():
  encoder = WordEncoder(tokens=3)
  (one, two), (mask, _) = encoder.encode(['a Red seven here', 'red'])
  assert mask.all() and one.shape == (3, 16)
  np.testing.assert_array_equal(one[1], two[0])
  assert not two[1:].any() and np.abs(one[0] - one[1]).max() > 0.1


@pytest.mark.parametrize('text', ['human', 'human=-1', 'human=much'])
def test_weights_that_are_none_are_refused(text):
  with pytest.raises(ValueError, match='human=1,long=3'):
    captions.parse_weights(text)
  assert captions.parse_weights('a=1,b=2.5') == {'a': 1.0, 'b': 2.5}


def test_captions_that_are_never_drawn_are_told_and_none_at_all_refused(caplog):
  check_captions(Colours(), None)
  assert '1 of 40 images looked at have no caption' in caplog.text
  caplog.clear()
  check_captions(Colours(), {'human': 1.0, 'tags': 2.0})
  assert 'is of the kind tags; there are: human, machine' in caplog.text
  with pytest.raises(UserError, match='none of 40 .* human, machine; give'):
    check_captions(Colours(), {'humna': 1.0})
