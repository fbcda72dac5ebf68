"""A sample set is the same file however often its writing was interrupted."""

import numpy as np
import pytest

from pixeldit_jax.images import image_sets
from pixeldit_jax.sampling.npz_writer import SampleStore

COUNT, SHAPE = 23, (4, 4, 3)
SETTINGS = {'seed': 0, 'guidance': 2.75, 'interval': (0.1, 0.9)}


def _sample(index):
  return np.random.default_rng(index).integers(0, 256, SHAPE, np.uint8)


def _images(span):
  return np.stack([_sample(i) for i in span])


def _open(folder, settings=SETTINGS):
  return SampleStore(folder / 's.npz', COUNT, SHAPE, settings, shard=5)


def _unbroken(folder):
  store = _open(folder)
  for span in store.pending():
    store.write(span, _images(span))
  return store.finish()


def test_numpy_and_the_reader_read_it(tmp_path):
  store = _open(tmp_path)
  for span in reversed(store.pending()):
    store.write(span, _images(span))
  labels = np.arange(COUNT) % 10
  path = store.finish(labels)
  with np.load(path) as arrays:
    np.testing.assert_array_equal(arrays['arr_0'], _images(range(COUNT)))
    np.testing.assert_array_equal(arrays['arr_1'], labels)
  assert image_sets.open_images(path, count=COUNT).shape == SHAPE
  names = [p.name for p in tmp_path.iterdir() if p.name[0] != '.']
  assert sorted(names) == ['s.npz', 's.npz.json']


def test_interrupted_anywhere_gives_the_same_file(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  expected = _unbroken(tmp_path / 'a').read_bytes()
  store = _open(tmp_path / 'b')
  for span in store.pending()[:2]:
    store.write(span, _images(span))
  # Killed while a shard was written, renamed or joined.
  shards = tmp_path / 'b' / 's.npz.shards'
  (shards / '00000010.raw.tmp').write_bytes(b'half')
  (shards / '00000015.raw').write_bytes(b'half, by a machine that went down')
  (tmp_path / 'b' / 's.npz.tmp').write_bytes(b'half')
  store = _open(tmp_path / 'b')
  assert [span.start for span in store.pending()] == [10, 15, 20]
  assert not store.finished
  with pytest.raises(ValueError, match='13 of 23 samples are missing.* 10 on'):
    store.finish()
  for span in store.pending():
    store.write(span, _images(span))
  assert store.finish().read_bytes() == expected
  # Killed after the last rename, before the shards were removed.
  shards.mkdir()
  store = _open(tmp_path / 'b')
  assert store.finished and not store.pending()
  assert store.finish().read_bytes() == expected and not shards.exists()


def test_samples_of_other_settings_are_not_continued(tmp_path):
  _open(tmp_path)
  with pytest.raises(ValueError, match='guidance: 2.75 stored, 3.0'):
    _open(tmp_path, SETTINGS | {'guidance': 3.0})
  _open(tmp_path)


def test_samples_of_other_settings_make_room_when_asked(tmp_path):
  _unbroken(tmp_path)
  other = SETTINGS | {'guidance': 3.0}
  options = dict(shard=5, overwrite=True)
  store = SampleStore(tmp_path / 's.npz', COUNT, SHAPE, other, **options)
  assert not store.finished and len(store.pending()) == 5
  store.write(store.pending()[0], _images(range(5)))
  # The same command goes on: what is there is of its own settings.
  store = SampleStore(tmp_path / 's.npz', COUNT, SHAPE, other, **options)
  assert len(store.pending()) == 4


def test_a_file_of_unknown_making_is_not_taken_over(tmp_path):
  np.savez(tmp_path / 's.npz', _images(range(3)))
  with pytest.raises(ValueError, match='no s.npz.json says how it was made'):
    _open(tmp_path)


@pytest.mark.usefixtures('unchecked_signatures')
def test_bad_images_are_refused(tmp_path):
  store = _open(tmp_path)
  span = store.pending()[0]
  with pytest.raises(ValueError, match='Got float32'):
    store.write(span, _images(span).astype(np.float32))
  with pytest.raises(ValueError, match='samples 0 to 4, expected uint8'):
    store.write(span, _images(range(4)))
  assert store.pending()[0] == span
