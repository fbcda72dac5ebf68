"""Captions of prepared images, encoded and stored, and what is refused."""

import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data.caption_sampler import ARRAYS, NULL, TEXT
from pixeldit_jax.data.prepare import prepare, text_embeddings
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources import shards
from pixeldit_jax.data.sources.open_source import open_source

T, C = 3, 4


class Letters:
  """An encoder of letters in place of words, used as `TextEncoder` is."""

  at_once = 2

  def __init__(self, checksum='a'):
    self.meta = dict(encoder='letters', checksum=checksum, width=C, tokens=T)
    self.read = []

  def encode(self, texts):
    assert texts
    self.read += texts
    numbers = [[*text.encode()[:T], *[0] * T][:T] for text in texts]
    found = np.repeat(np.array(numbers, ml_dtypes.bfloat16)[..., None], C, -1)
    return found, self.mask(texts)

  def mask(self, texts):
    return np.array([[i < len(text) for i in range(T)] for text in texts])


CAPTIONS = [['ab'], ['c', 'defg'], [], ['h'], ['ij', 'k', 'l'], []]


@pytest.fixture(scope='module')
def shards_once(tmp_path_factory):
  """Three shards; image i has the captions CAPTIONS[i]."""
  root = tmp_path_factory.mktemp('captioned')
  (root / 'images').mkdir()
  for i, texts in enumerate(CAPTIONS):
    Image.new('RGB', (8, 8), (i, i, i)).save(root / 'images' / f'{i}.png')
    text = json.dumps({'captions': texts})
    (root / 'images' / f'{i}.json').write_text(text)
  settings = PrepareSettings(f'images:{root}/images', 8, shard_size=2)
  prepare.prepare(settings, str(root / 'shards'), num_processes=1)
  return root / 'shards'


@pytest.fixture
def prepared(shards_once, tmp_path):
  return shutil.copytree(shards_once, str(tmp_path / 'shards'))


def test_each_image_gets_what_its_captions_are_encoded_to(prepared):
  encoder = Letters()
  done = text_embeddings.store(prepared, encoder)
  assert done == (6, 2)
  source = open_source(f'shards:{prepared}', ARRAYS)
  for i, texts in enumerate(CAPTIONS):
    example = source[i]
    assert [caption.text for caption in example['captions']] == texts
    assert example['arrays']['text'].dtype == ml_dtypes.bfloat16
    assert example['arrays']['text'].shape == (len(texts), T, C)
    assert example['arrays']['text_mask'].shape == (len(texts), T)
    if texts:
      expected, mask = encoder.encode(texts)
      np.testing.assert_array_equal(example['arrays']['text'], expected)
      np.testing.assert_array_equal(example['arrays']['text_mask'], mask)
  for name, expected in zip(source.arrays, encoder.encode([''])):
    null = source.arrays[name].constant(NULL)
    np.testing.assert_array_equal(null, expected[0])
    assert source.arrays[name].meta == encoder.meta


def test_it_goes_on_where_it_was_stopped(prepared):
  class Stopped(Letters):
    def encode(self, texts):
      if 'l' in texts:
        raise KeyboardInterrupt
      return super().encode(texts)

  with pytest.raises(KeyboardInterrupt):
    text_embeddings.store(prepared, Stopped(), batch_size=2)
  with pytest.raises(FileNotFoundError):
    open_source(f'shards:{prepared}', [TEXT])
  encoder = Letters()
  text_embeddings.store(prepared, encoder, batch_size=2)
  assert 'l' in encoder.read and 'ab' not in encoder.read
  encoder.read.clear()
  text_embeddings.store(prepared, encoder)  # is done, and only checked
  assert encoder.read == ['']


def test_a_changed_encoder_is_refused(prepared):
  text_embeddings.store(prepared, Letters())
  with pytest.raises(ValueError, match='checksum: a stored, b asked'):
    text_embeddings.store(prepared, Letters('b'))
  # One of the two arrays is gone, the other is still of the first encoder.
  (pathlib.Path(prepared) / f'{TEXT}.json').unlink()
  other = Letters('b')
  with pytest.raises(ValueError, match='Delete text_mask.json'):
    text_embeddings.store(prepared, other)
  assert not other.read


def test_images_without_captions_are_refused(prepared):
  manifest = shards.read_manifest(prepared) | {'captions': 0}
  path = pathlib.Path(prepared) / shards.MANIFEST
  path.write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match='no captions'):
    text_embeddings.store(prepared, Letters())
