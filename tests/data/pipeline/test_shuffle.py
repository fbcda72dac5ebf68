"""The order of an epoch is as good as chance, and no two seeds share one."""

import math

import numpy as np
import pytest

from pixeldit_jax.data.pipeline import shuffle
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.sources.mnist_digits import DigitsSource

DISTANCES = [2**k for k in range(17)]


def correlation(order, distance):
  """Correlation of entries that are so far apart, in sigmas of chance."""
  a, b = order[:-distance], order[distance:]
  return np.corrcoef(a, b)[0, 1] * math.sqrt(len(a))


def step_concentration(places, distance, bins=64):
  """Chi-square of the steps between places, in sigmas of chance."""
  step = (places[distance:] - places[:-distance]) % len(places)
  counts = np.bincount(step * bins // len(places), minlength=bins)
  expected = len(step) / bins
  chi = ((counts - expected) ** 2 / expected).sum()
  return (chi - (bins - 1)) / math.sqrt(2 * (bins - 1))


@pytest.mark.parametrize('count', [60_000, 1_281_167])
def test_pairs_of_neighbours_lie_as_by_chance(count):
  found = shuffle.permute_all(count, shuffle._keys(0, 0, 0))
  assert np.array_equal(np.sort(found), np.arange(count))
  places = np.empty(count, np.int64)
  places[found] = np.arange(count)
  for distance in DISTANCES:
    if distance < count:
      assert abs(correlation(places, distance)) < 3, distance
      assert abs(correlation(found, distance)) < 3, distance
      assert step_concentration(places, distance) < 4, distance
  # Sorted by class: each 1,000th of the epoch has as many of the first tenth.
  first = found < count // 10
  parts = first[: count // 1000 * 1000].reshape(1000, -1).sum(1)
  chance = math.sqrt(parts.mean() * 0.9)
  assert 0.9 < parts.std() / chance < 1.1


def test_the_order_before_fails_it():
  """The measure finds what it is for."""
  index_at = shuffle.Epochs(60_000, 0, order=shuffle.GRAIN)
  order = np.array([index_at(k) for k in range(60_000)])
  assert correlation(order, 256) / math.sqrt(60_000) > 0.5  # 0.58


@pytest.mark.parametrize('count', [1, 2, 3, 5, 1003])
def test_every_epoch_has_each_example_once(count):
  index_at = shuffle.Epochs(count, 7)
  orders = [
    tuple(index_at(epoch * count + k) for k in range(count))
    for epoch in range(4)
  ]
  assert all(sorted(order) == list(range(count)) for order in orders)
  keys = shuffle._keys(7, 0, 2)
  assert list(orders[2]) == shuffle.permute_all(count, keys).tolist()
  if count > 100:
    assert len(set(orders)) == 4


def test_no_epoch_of_a_seed_is_one_of_another():
  starts = {
    (seed, part, epoch): tuple(
      shuffle.Epochs(1000, seed, part)(epoch * 1000 + k) for k in range(20)
    )
    for seed in range(4)
    for part in range(3)
    for epoch in range(4)
  }
  assert len(set(starts.values())) == len(starts)


def test_a_run_begun_in_the_old_order_goes_on_in_it():
  options = LoaderOptions(batch_size=16, seed=3, resolution=28, num_threads=1)
  source = DigitsSource()
  old = shuffle.Epochs(len(source), 3, order=shuffle.GRAIN)
  state = dict(position=32, examples=len(source), seed=3, shuffle=True)
  data = make_batches(source, options)
  data.set_state(state)
  assert next(data)['id'].tolist() == [old(k) for k in range(32, 48)]
  assert data.get_state() == state | dict(position=48)
  data.close()
  data = make_batches(source, options)
  new = shuffle.Epochs(len(source), 3)
  assert next(data)['id'].tolist() == [new(k) for k in range(16)]
  assert data.get_state()['order'] == shuffle.FEISTEL
  data.close()
