"""The order of examples depends on the seed alone; resumes are exact."""

import io
import sys

import cloudpickle
import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from pixeldit_jax.data import source, transforms
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions

# Workers cannot import a test file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Squares(source.Source):
  """`count` tiny images whose colour is their index; some may be broken."""

  class_names = ('even', 'odd')

  def __init__(self, count, bad=()):
    self._count = count
    self._bad = frozenset(bad)

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    image = np.full((5, 6, 3), index % 256, np.uint8)
    if index in self._bad:
      buffer = io.BytesIO()
      Image.fromarray(image).save(buffer, 'PNG')
      image = buffer.getvalue()[:40]
    return {'image': image, 'label': index % 2, 'name': f's/{index}'}


def make(count=10, bad=(), rows=None, **options):
  options = {'resolution': 4, 'batch_size': 4, 'seed': 3} | options
  options = LoaderOptions(**options)
  return make_batches(Squares(count, bad), options, rows=rows)


def ids(iterator, batches):
  out = [next(iterator)['id'] for _ in range(batches)]
  return np.stack(out)


def test_a_batch_is_uint8_pixels_with_their_labels_and_ids():
  batch = next(make())
  assert sorted(batch) == ['id', 'image', 'label']
  assert batch['image'].shape == (4, 4, 4, 3)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].dtype == np.int32 and batch['id'].dtype == np.int32
  np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['id'])
  np.testing.assert_array_equal(batch['label'], batch['id'] % 2)


def test_each_epoch_is_another_shuffle_of_every_example():
  stream = ids(make(count=10, batch_size=4), 10).reshape(4, 10)
  for epoch in stream:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in stream}) == 4


def test_without_shuffle_the_order_is_that_of_the_source():
  stream = ids(make(shuffle=False), 5).reshape(-1)
  np.testing.assert_array_equal(stream, np.arange(20) % 10)


def test_the_seed_decides_the_order():
  one, same, other = (ids(make(100, seed=s), 20) for s in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert (one != other).mean() > 0.9
  # The second epoch of one seed is not the first of the next.
  assert (ids(make(100, seed=0), 50)[25:] != ids(make(100, seed=1), 25)).any()


@pytest.mark.parametrize('count', [2, 4])
def test_hosts_share_the_global_batches(count):
  whole = ids(make(50, batch_size=8), 20)
  part = 8 // count
  parts = [
    ids(make(50, batch_size=8, rows=range(k, k + part)), 20)
    for k in range(0, 8, part)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_threads_and_prefetch_change_nothing():
  want = ids(make(50), 30)
  np.testing.assert_array_equal(
    ids(make(50, num_threads=1, prefetch=1), 30), want
  )
  np.testing.assert_array_equal(
    ids(make(50, num_threads=7, prefetch=5), 30), want
  )


def test_a_state_resumes_exactly_also_with_other_hosts_and_batches():
  want = ids(make(50, batch_size=8), 30)
  iterator = make(50, batch_size=8)
  ids(iterator, 11)
  state = iterator.get_state()
  next(iterator)  # read ahead of the state, then thrown away

  again = make(50, batch_size=8)
  again.set_state(state)
  np.testing.assert_array_equal(ids(again, 19), want[11:])
  iterator.set_state(state)
  np.testing.assert_array_equal(ids(iterator, 19), want[11:])

  halves = []
  for rows in (range(4), range(4, 8)):
    half = make(50, batch_size=8, rows=rows)
    half.set_state(state)
    halves.append(ids(half, 19))
  np.testing.assert_array_equal(np.concatenate(halves, 1), want[11:])

  smaller = make(50, batch_size=2)
  smaller.set_state(state)
  np.testing.assert_array_equal(ids(smaller, 76).reshape(19, 8), want[11:])


def test_a_state_of_other_data_is_refused():
  state = make(50).get_state()
  for other in (make(51), make(50, seed=4), make(50, shuffle=False)):
    with pytest.raises(ValueError, match='order of the examples'):
      other.set_state(state)


def test_orbax_saves_and_restores_the_iterator(tmp_path):
  iterator = make(50)
  ids(iterator, 7)
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(
      7,
      args=ocp.args.Composite(
        data=grain.checkpoint.CheckpointSave(iterator),
        state=ocp.args.JsonSave(iterator.get_state()),
      ),
    )
    manager.wait_until_finished()
    want = ids(iterator, 5)
    again = make(50)
    restored = manager.restore(
      7,
      args=ocp.args.Composite(
        data=grain.checkpoint.CheckpointRestore(again),
        state=ocp.args.JsonRestore(),
      ),
    )
  np.testing.assert_array_equal(ids(again, 5), want)
  again.set_state(restored['state'])
  np.testing.assert_array_equal(ids(again, 5), want)


def test_a_bad_image_gives_way_to_another_and_is_counted():
  iterator = make(10, bad=[4], shuffle=False, batch_size=5)
  np.testing.assert_array_equal(
    ids(iterator, 4).reshape(2, 10), [[0, 1, 2, 3, 8, 5, 6, 7, 8, 9]] * 2
  )
  ((name, times),) = iterator.skipped.items()
  assert name.startswith('s/4: ') and times == 2


def test_a_long_stretch_of_bad_images_does_not_stop_the_run():
  # As where a disk fails: most of what is left is far from it.
  bad = range(30, 80)
  got = ids(make(100, bad=bad, shuffle=False, batch_size=10), 10).reshape(-1)
  assert not set(got) & set(bad)
  np.testing.assert_array_equal(got[:30], np.arange(30))


def test_data_that_are_all_bad_stop_the_run_with_their_names():
  with pytest.raises(ValueError, match='data are damaged.*s/3'):
    next(make(40, bad=range(40), shuffle=False))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'count': 0}, 'no example'),
    ({'batch_size': 0}, 'batch_size must be'),
    ({'batch_size': 12}, 'more than the 10 examples'),
    ({'seed': -1}, 'seed must be'),
    ({'resolution': 0}, 'resolution must be'),
    ({'prefetch': 0}, 'prefetch 1 or more'),
    ({'num_workers': -1}, '0 or more'),
  ],
)
def test_values_that_cannot_be_met_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing(workers):
  want = ids(make(50), 30)
  iterator = make(50, num_workers=workers, num_threads=1)
  got = [ids(iterator, 13)]
  state = iterator.get_state()
  iterator.close()
  again = make(50)
  again.set_state(state)
  got.append(ids(again, 17))
  np.testing.assert_array_equal(np.concatenate(got), want)


class Gradient(Squares):
  """Pixels of which each is another."""

  def __getitem__(self, index):
    pixels = np.arange(40 * 60 * 3) % 251 + 0 * index
    image = pixels.reshape(40, 60, 3).astype(np.uint8)
    return {'image': image, 'label': 0, 'name': f'g/{index}'}


def test_cuts_are_drawn_anew_each_time_and_the_same_after_a_resume():
  def start(**options):
    options = dict(resolution=8, batch_size=4, seed=3, num_threads=1) | options
    return make_batches(Gradient(8), LoaderOptions(**options))

  batches = start(crop=0.5)
  first, second = next(batches), next(batches)
  third = next(batches)  # the next epoch: the same examples
  seen = [*first['image'], *second['image'], *third['image']]
  assert len({image.tobytes() for image in seen}) == 12
  again = start(crop=0.5)
  state = again.get_state()
  np.testing.assert_array_equal(next(again)['image'], first['image'])
  again.set_state(state)
  np.testing.assert_array_equal(next(again)['image'], first['image'])
  whole = next(start())['image']
  assert len({image.tobytes() for image in whole}) == 1


def test_hosts_draw_the_numbers_that_one_host_draws():
  def draw(example, random):
    del example
    return {'drawn': np.float64(random.random())}

  options = LoaderOptions(resolution=8, batch_size=4, seed=3, crop=0.5)
  whole, *parts = (
    next(make_batches(Gradient(8), options, rows=rows, pick=draw))
    for rows in (None, range(2), range(2, 4))
  )
  for name in ('image', 'drawn'):
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(joined, whole[name])
    assert len({value.tobytes() for value in joined}) == 4


def test_cuts_and_picks_have_random_numbers_of_their_own(monkeypatch):
  cuts, picks = [], []

  def cut(image, height, width, least, random):
    del height, width, least
    cuts.append(random.random())
    return image

  def pick(example, random):
    del example
    picks.append(random.random())
    return {}

  monkeypatch.setattr(transforms, 'random_cut', cut)
  options = LoaderOptions(
    resolution=4, batch_size=4, seed=3, crop=0.5, num_threads=1
  )
  next(make_batches(Gradient(8), options, pick=pick))
  assert len({*cuts[:4], *picks[:4]}) == 8
