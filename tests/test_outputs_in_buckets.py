"""What is written to a bucket is whole, and replaces nothing of others."""

import json

import numpy as np
import pytest
from etils import epath

from pixeldit_jax import files, outputs
from pixeldit_jax.errors import OutputError, UserError
from pixeldit_jax.images.image_sets import open_images
from pixeldit_jax.sampling import set_pictures
from pixeldit_jax.sampling.npz_writer import SampleStore
from pixeldit_jax.storage import amazon_s3, buckets, downloads

pytestmark = pytest.mark.usefixtures('cache')


@pytest.fixture(scope='module', params=['gs', 's3'])
def bucket(request, cloud):
  made = cloud(request.param, 'outputs')
  buckets.check(made)
  return made


def write(path, text):
  with outputs.replacing(path) as made:
    made.write_text(text)


def test_what_we_wrote_is_replaced_and_nothing_else(bucket):
  path = f'{bucket}/ours/grid.png'
  write(path, 'first')
  write(path, 'second')
  assert epath.Path(path).read_text() == 'second'
  epath.Path(path).write_text('of the user')
  with pytest.raises(UserError, match='grid.png.*not written by this'):
    write(path, 'third')
  assert epath.Path(path).read_text() == 'of the user'
  assert [one.name for one in buckets.below(f'{bucket}/ours')] == [
    'ours/grid.png'
  ]


def test_what_appears_meanwhile_stays(bucket):
  path = f'{bucket}/meanwhile.png'
  with pytest.raises(OutputError, match='not ours'):
    with outputs.replacing(path) as made:
      made.write_text('ours')
      epath.Path(path).write_text('of the user')
  assert epath.Path(path).read_text() == 'of the user'


def test_a_block_that_fails_writes_nothing(bucket):
  with pytest.raises(KeyError):
    with outputs.replacing(f'{bucket}/failed.png') as made:
      made.write_text('half')
      raise KeyError
  assert not buckets.below(f'{bucket}/failed.png')


def test_a_folder_replaces_ours_and_keeps_that_of_others(bucket):
  folder = f'{bucket}/images'
  for count in (20, 3):
    with outputs.replacing(folder) as made:
      made.mkdir()
      for i in range(count):
        (made / f'{i:02d}.png').write_text(f'{i} of {count}')
  names = [one.name for one in buckets.below(folder)]
  assert names == [f'images/{i:02d}.png' for i in range(3)]
  epath.Path(f'{folder}/mine.txt').write_text('of the user')
  with pytest.raises(UserError, match='mine.txt'):
    outputs.check([folder])


def test_a_large_file_comes_in_parts(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(amazon_s3, '_PART', 5 << 20)  # the least that S3 takes
  data = np.random.default_rng(0).bytes(12 << 20)
  (tmp_path / 'large').write_bytes(data)
  there = f'{bucket}/large'
  assert buckets.put(there, tmp_path / 'large', '')
  assert downloads.fetch(there).read_bytes() == data
  assert not buckets.foreign(there)


def test_a_set_of_samples_is_made_and_read_in_a_bucket(bucket, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)

  def make(folder):
    store = SampleStore(f'{folder}/samples.npz', 5, (8, 8, 3), {}, shard=2)
    store.write(range(0, 2), images[:2])
    again = SampleStore(f'{folder}/samples.npz', 5, (8, 8, 3), {}, shard=2)
    assert again.pending() == [range(2, 4), range(4, 5)]
    for span in again.pending():
      again.write(span, images[span.start : span.stop])
    again.finish(np.arange(5))

  make(f'{bucket}/set')
  make(tmp_path / 'set')
  there = open_images(f'{bucket}/set/samples.npz', 5)
  assert (
    there.checksum() == open_images(tmp_path / 'set/samples.npz').checksum()
  )
  set_pictures.write_pngs(f'{bucket}/set/images', f'{bucket}/set/samples.npz')
  set_pictures.write_grid(f'{bucket}/set/grid.png', there.path)
  assert open_images(f'{bucket}/set/images', 5).shape == (8, 8, 3)
  names = [one.name for one in buckets.below(f'{bucket}/set')]
  assert names[:2] == ['set/grid.png', 'set/images/000000.png']
  assert names[-2:] == ['set/samples.npz', 'set/samples.npz.json']
  with pytest.raises(UserError, match='describes samples of'):
    SampleStore(f'{bucket}/set/samples.npz', 6, (8, 8, 3), {})


def test_another_content_is_read_again(bucket):
  path = f'{bucket}/again.json'
  for value in ([1], [2]):  # of one size, in one second
    files.write_json(path, value)
    assert json.loads(downloads.fetch(path).read_text()) == value
