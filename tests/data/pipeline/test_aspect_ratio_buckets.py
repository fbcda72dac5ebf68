"""Buckets: shapes, and batches of one shape in an order that all hosts know."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config
from pixeldit_jax.data.pipeline import aspect_ratio_buckets, sized_source
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.sized_source import with_buckets
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources import open_source
from pixeldit_jax.errors import UserError


@pytest.mark.parametrize('size', [512, 1024])
def test_a_family_keeps_the_area_and_fits_the_patch(size):
  shapes = aspect_ratio_buckets.family(size)
  assert len(shapes) == len(set(shapes)) == 17
  assert (size, size) in shapes
  ratios = [width / height for height, width in shapes]
  assert ratios == sorted(ratios, reverse=True)
  assert ratios[0] == 4 and ratios[-1] == 1 / 4
  for height, width in shapes:
    assert (width, height) in shapes
    assert height % (size // 16) == width % (size // 16) == 0
    assert abs(height * width / size**2 - 1) < 0.032


def test_the_families_have_the_same_ratios():
  doubled = tuple((2 * h, 2 * w) for h, w in aspect_ratio_buckets.family(512))
  assert doubled == aspect_ratio_buckets.family(1024)


@pytest.mark.parametrize('size', [64, 200, 256, 320, 500, 777, 1536])
@pytest.mark.parametrize('patch_size', [4, 8, 14, 16, 32])
def test_a_family_of_any_size_fits_any_patch(size, patch_size):
  shapes = aspect_ratio_buckets.family(size, patch_size)
  assert len(shapes) == len(set(shapes))
  (square,) = (height for height, width in shapes if height == width)
  assert abs(square - size) <= max(patch_size, size // 16) / 2
  for height, width in shapes:
    assert (width, height) in shapes
    assert height % patch_size == width % patch_size == 0
    # The long side is rounded by half a step at most.
    step = patch_size * max(1, size // 16 // patch_size)
    assert abs(height * width - square**2) <= min(height, width) * step / 2


def test_a_family_needs_two_patches():
  with pytest.raises(UserError, match='size 31 and patches of 16'):
    aspect_ratio_buckets.family(31)
  with pytest.raises(UserError, match='patches of 0'):
    aspect_ratio_buckets.family(256, 0)


@pytest.mark.parametrize('size', [64, 256, 512, 768, 1024])
def test_preparations_begun_without_a_patch_go_on(size):
  settings = PrepareSettings('images:/x', size, bucketed=True, patch_size=4)
  step = size // 16
  sides = {side for shape in settings.shapes() for side in shape}
  assert all(side % step == 0 for side in sides)
  assert 'patch_size' not in settings.stored()
  other = PrepareSettings('images:/x', size + 8, bucketed=True, patch_size=8)
  assert other.stored()['patch_size'] == 8
  squares = PrepareSettings('images:/x', size, patch_size=8)
  assert 'patch_size' not in squares.stored()


def test_buckets_used_as_squares_are_said(source, caplog):
  options = LoaderOptions(batch_size=2, seed=0, resolution=8, num_threads=1)
  make_batches(source, options).close()
  said = 'aspect-ratio buckets, but data.buckets=False: all images are cut'
  assert caplog.text.count(said) == 1


def test_the_nearest_bucket_has_the_nearest_ratio():
  shapes = aspect_ratio_buckets.family(512)
  for k, (height, width) in enumerate(shapes):
    assert aspect_ratio_buckets.nearest(height, width, shapes) == k
    assert aspect_ratio_buckets.nearest(7 * height, 7 * width, shapes) == k
  assert shapes[aspect_ratio_buckets.nearest(10, 1000, shapes)] == (256, 1024)
  # Upright and lying are treated alike.
  for height, width in [(3, 4), (9, 16), (2, 3), (100, 101)]:
    one = shapes[aspect_ratio_buckets.nearest(height, width, shapes)]
    other = shapes[aspect_ratio_buckets.nearest(width, height, shapes)]
    assert one == other[::-1]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """20 squares, 10 wide and 3 tall images with captions."""
  path = tmp_path_factory.mktemp('buckets')
  sizes = [(8, 8)] * 20 + [(4, 16)] * 10 + [(16, 4)] * 3
  (path / 'in').mkdir()
  for i, (height, width) in enumerate(sizes):
    Image.new('RGB', (width, height), (i,) * 3).save(path / f'in/{i:02d}.png')
    (path / f'in/{i:02d}.txt').write_text(f'caption {i}')
  settings = PrepareSettings(f'images:{path}/in', 512, bucketed=True)
  prepare.prepare(settings, str(path / 'out'), num_processes=1)
  return open_source.open_source(f'shards:{path}/out')


OPTIONS = {'batch_size': 4, 'seed': 1, 'resolution': 512, 'buckets': True}


def run(source, batches, state=None, rows=None, **options):
  options = LoaderOptions(**(OPTIONS | options))
  iterator = make_batches(source, options, rows=rows)
  if state:
    iterator.set_state(state)
  out = [next(iterator) for _ in range(batches)]
  state = iterator.get_state()
  iterator.close()
  return out, state


def test_each_batch_is_of_one_bucket_and_every_example_comes_as_often(source):
  # Four epochs: 33 batches of 4.
  batches, _ = run(source, 33)
  shapes, ids = [], []
  index = source.bucket_of_examples()
  for batch in batches:
    shape = batch['image'].shape
    assert shape[0] == 4 and batch['image'].dtype == np.uint8
    assert {source.buckets[index[i]] for i in batch['id']} == {shape[1:3]}
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['id'])
    assert batch['caption'] == [f'caption {i}' for i in batch['id']]
    shapes.append(shape[1:3])
    ids += batch['id'].tolist()
  counts = {shape: shapes.count(shape) for shape in set(shapes)}
  assert counts == {(512, 512): 20, (256, 1024): 10, (1024, 256): 3}
  assert len({tuple(shapes[i : i + 8]) for i in range(0, 24, 8)}) >= 2
  assert (np.bincount(ids, minlength=33) == 4).all()


def test_hosts_agree_on_the_bucket_and_share_the_batch(source):
  whole, _ = run(source, 12)
  parts = [run(source, 12, rows=rows)[0] for rows in ((0, 1), (2, 3))]
  for want, one, two in zip(whole, *parts):
    for key in ('image', 'id', 'label'):
      np.testing.assert_array_equal(
        np.concatenate([one[key], two[key]]), want[key]
      )
    assert one['caption'] + two['caption'] == want['caption']


def test_it_resumes_exactly_also_with_other_hosts(source):
  whole, _ = run(source, 12)
  _, state = run(source, 5)
  rest, _ = run(source, 7, state)
  half, _ = run(source, 7, state, rows=(2, 3))
  for want, one, two in zip(whole[5:], rest, half):
    np.testing.assert_array_equal(one['id'], want['id'])
    np.testing.assert_array_equal(two['id'], want['id'][2:])


def test_workers_change_nothing(source):
  whole, _ = run(source, 4)
  got, _ = run(source, 4, num_workers=2)
  for one, want in zip(got, whole):
    np.testing.assert_array_equal(one['image'], want['image'])
    assert one['caption'] == want['caption']


def test_the_state_of_another_batch_size_is_refused(source):
  _, state = run(source, 1)
  with pytest.raises(ValueError, match='order of the examples'):
    run(source, 1, state, batch_size=2)


def test_squares_have_no_buckets(tmp_path):
  (tmp_path / 'in').mkdir()
  Image.new('RGB', (4, 4)).save(tmp_path / 'in' / 'a.png')
  prepare.prepare(
    PrepareSettings(f'images:{tmp_path}/in', 8), str(tmp_path / 'out')
  )
  source = open_source.open_source(f'shards:{tmp_path}/out')
  with pytest.raises(ValueError, match='only shards of .* --buckets'):
    make_batches(source, LoaderOptions(**OPTIONS))


@pytest.fixture
def pictures(tmp_path):
  """Thirty wide ones, ten tall ones on their side, a square, a broken one."""
  for i in range(40):
    image = Image.new('RGB', (64, 32), (6 * i, 0, 0))
    exif = Image.Exif()
    if i >= 30:
      exif[0x0112] = 6
    image.save(tmp_path / f'{i:02d}.jpg', exif=exif)
  Image.new('RGB', (40, 40)).save(tmp_path / '40.png')
  (tmp_path / '41.jpg').write_bytes(b'no picture')
  return open_source.open_source(f'images:{tmp_path}')


def test_pictures_that_were_not_prepared_have_buckets_by_their_sizes(pictures):
  config = get_config()
  config.data.update(buckets=True, resolution=32, batch_size=8)
  config.model.patch_size = 4
  source = with_buckets(pictures, config)
  shapes = [source.buckets[k] for k in source.bucket_of_examples()]
  (wide,), (tall,) = set(shapes[:30]), set(shapes[30:40])
  assert 1.5 * wide[0] < wide[1] < 2.5 * wide[0] and tall == wide[::-1]
  # A bucket of two would repeat them: they are with the nearest others.
  assert {shapes[40], shapes[41]} <= {wide, tall}
  options = LoaderOptions(
    resolution=32, batch_size=8, seed=0, buckets=True, num_threads=1
  )
  batches = make_batches(source, options)
  for _ in range(5):
    batch = next(batches)
    assert {shapes[k] for k in batch['id']} == {batch['image'].shape[1:3]}


def test_sizes_are_not_read_of_squares_or_of_millions(pictures, monkeypatch):
  config = get_config()
  config.data.buckets = True
  monkeypatch.setattr(sized_source, 'MOST', 41)
  with pytest.raises(UserError, match='42 pictures .* prepare-data --buckets'):
    with_buckets(pictures, config)
  pictures.resolution = 32
  with pytest.raises(UserError, match='prepared as squares'):
    with_buckets(pictures, config)
