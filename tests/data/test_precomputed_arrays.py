"""Arrays next to shards: aligned, resumable, checked, and in the batches."""

import concurrent.futures
import json
import os
import pathlib
import pickle
import threading

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.precompute import Computation, precompute
from pixeldit_jax.data.prepare.shard_job import ALONE, Peers
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources import open_source

COUNT = 11
META = {'teacher': 'means', 'sha256': 'ab12'}


@pytest.fixture
def images(tmp_path):
  """Shards of 4, 3 (one file is bad) and 3 squares of one colour each."""
  (tmp_path / 'in' / 'a').mkdir(parents=True)
  for i in range(COUNT):
    path = tmp_path / 'in' / 'a' / f'{i:02d}.png'
    Image.new('RGB', (8, 8), (20 * i, i, 0)).save(path)
  (tmp_path / 'in' / 'a' / '05.png').write_bytes(b'bad')
  out = str(tmp_path / 'out')
  settings = PrepareSettings(f'folder:{tmp_path}/in', 8, shard_size=4)
  prepare.prepare(settings, out, num_processes=1)
  return out


def load(example):
  return np.asarray(transforms.decode(example['image']))


def means(batch):
  """[B, 2, 3]: the mean colour twice, the second time halved."""
  mean = np.stack(batch).mean((1, 2))
  return np.stack([mean, mean / 2], 1)


def write(path, name, compute, peers=ALONE, **options):
  computation = Computation(name=name, compute=compute, **options)
  return precompute(path, computation, peers)


def content(path):
  return {p.name: p.read_bytes() for p in pathlib.Path(path).glob('features*')}


def test_every_example_gets_its_array(images):
  sizes = []

  def counted(batch):
    sizes.append(len(batch))
    return means(batch)

  null = np.arange(3.0)
  manifest = write(
    images, 'features', counted,
    meta=META, load=load, batch_size=3, constants={'null': null},
  )  # fmt: skip
  assert set(sizes) == {3} and len(sizes) == 4  # 10 examples in fours of 3
  assert manifest['shape'] == [2, 3] and manifest['examples'] == 10
  assert not os.path.exists(f'{images}/.features')

  source = open_source.open_source(f'shards:{images}', arrays=['features'])
  for copy in (source, pickle.loads(pickle.dumps(source))):
    for i in range(10):
      features = copy[i]['arrays']['features']
      assert features.dtype == ml_dtypes.bfloat16
      want = means([load(copy[i])])[0].astype(ml_dtypes.bfloat16)
      np.testing.assert_array_equal(features, want)
  stored = source.arrays['features']
  assert stored.meta == META
  np.testing.assert_array_equal(stored.constant('null').astype(float), null)
  with pytest.raises(KeyError, match='other'):
    stored.constant('other')


@pytest.mark.parametrize('workers', [0, 1])
def test_batches_carry_the_arrays_of_their_examples(images, workers):
  write(images, 'features', means, meta=META, load=load)
  source = open_source.open_source(f'shards:{images}', arrays=['features'])
  options = LoaderOptions(
    resolution=8, batch_size=6, seed=0, num_workers=workers
  )
  batch = next(make_batches(source, options))
  assert batch['features'].shape == (6, 2, 3)
  assert batch['features'].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    batch['features'].astype(np.float32), means(batch['image'])
  )


def test_arrays_may_differ_in_shape_and_pick_makes_them_equal(images):
  write(
    images, 'tokens', lambda batch: [np.ones((n, 2)) * n for n in batch],
    meta={}, load=lambda example: 1 + int(example['name'][2:4]) % 3,
  )  # fmt: skip
  source = open_source.open_source(f'shards:{images}', arrays=['tokens'])
  assert source.arrays['tokens'].shape is None

  def pick(example, random):
    row = random.integers(len(example['arrays']['tokens']))
    return {
      'tokens': example['arrays']['tokens'][row],
      'row': row,
      'of': 'tokens',
    }

  def run(hosts, batches):
    options = LoaderOptions(resolution=8, batch_size=4, seed=2)
    parts = [
      make_batches(source, options, rows=rows, pick=pick)
      for rows in np.split(np.arange(4), hosts)
    ]
    return [[next(part) for part in parts] for _ in range(batches)]

  whole = [batch for (batch,) in run(1, 9)]
  assert whole[0]['tokens'].shape == (4, 2) and whole[0]['of'] == ['tokens'] * 4
  rows = np.concatenate([batch['row'] for batch in whole])
  assert len(set(rows.tolist())) == 3
  for want, (one, two) in zip(whole, run(2, 9)):
    np.testing.assert_array_equal(
      np.concatenate([one['row'], two['row']]), want['row']
    )


def test_an_interrupted_run_goes_on_to_the_same_bytes(images):
  write(images, 'features', means, meta=META, load=load, batch_size=4)
  want = content(images)
  for path in pathlib.Path(images).glob('features*'):
    path.unlink()
  calls = []

  def fails(batch):
    calls.append(batch)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return means(batch)

  with pytest.raises(KeyboardInterrupt):
    write(images, 'features', fails, meta=META, load=load, batch_size=4)
  with pytest.raises(
    FileNotFoundError,
    match=r"'features' is not stored.*prepare-data --features=",
  ):
    open_source.open_source(f'shards:{images}', arrays=['features'])
  assert len(content(images)) == 1  # the first shard
  # What a run that was killed would leave.
  leftover = pathlib.Path(images, '.tmp-7-features-00002-of-00003.array_record')
  leftover.write_bytes(b'half')
  with pytest.raises(
    ValueError, match='(?s)teacher: means stored, other asked.*Delete features'
  ):
    write(images, 'features', means, meta={'teacher': 'other'}, load=load)

  before = len(calls)
  write(images, 'features', lambda b: (calls.append(b), means(b))[1],
        meta=META, load=load, batch_size=4)  # fmt: skip
  assert len(calls) - before == 2  # 6 of 10 examples were left
  assert content(images) == want and not leftover.exists()
  # Done: nothing is computed again.
  write(images, 'features', fails, meta=META, load=load, batch_size=4)


def test_processes_share_the_shards(images):
  write(images, 'features', means, meta=META, load=load)
  want = content(images)
  for path in pathlib.Path(images).glob('features*'):
    path.unlink()
  barrier = threading.Barrier(2)

  def run(process):
    peers = Peers(process, 2, barrier.wait)
    return write(images, 'features', means, peers, meta=META, load=load)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    one, two = pool.map(run, range(2))
  assert one == two and content(images) == want


def test_what_does_not_match_is_refused(images):
  write(images, 'features', means, meta=META, load=load)
  source = open_source.open_source(f'shards:{images}', arrays=['features'])
  source.check(resolution=8, checksums=True)

  path = pathlib.Path(images, 'features-00001-of-00003.array_record')
  whole = path.read_bytes()
  path.write_bytes(whole[:-1] + b'x')
  with pytest.raises(ValueError, match='features-00001.* checksum differs'):
    source.check(checksums=True)
  path.write_bytes(whole[:-1])
  with pytest.raises(ValueError, match='features-00001.* has .* bytes'):
    open_source.open_source(f'shards:{images}', arrays=['features'])
  path.write_bytes(whole)

  manifest = pathlib.Path(images, 'manifest.json')
  changed = json.loads(manifest.read_text())
  changed['class_names'] = ['b']
  manifest.write_text(json.dumps(changed))
  with pytest.raises(ValueError, match='belong to other images'):
    open_source.open_source(f'shards:{images}', arrays=['features'])
  pathlib.Path(images, 'features.json').write_text('{')
  with pytest.raises(ValueError, match='features.json is damaged'):
    open_source.open_source(f'shards:{images}', arrays=['features'])


def test_arrays_that_cannot_be_are_refused(images, tmp_path):
  with pytest.raises(ValueError, match='not finite'):
    write(images, 'features', lambda b: means(b) + np.inf, meta={}, load=load)
  with pytest.raises(ValueError, match='1 arrays for 64 examples'):
    write(images, 'features', lambda b: means(b)[:1], meta={}, load=load)
  for name in ('manifest', 'Features', 'a/b', ''):
    with pytest.raises(ValueError, match='precomputed arrays'):
      write(images, name, means, meta={})
  with pytest.raises(FileNotFoundError, match='prepare-data'):
    write(str(tmp_path), 'features', means, meta={})
  with pytest.raises(ValueError, match='next to shards only'):
    open_source.open_source('digits', arrays=['features'])
