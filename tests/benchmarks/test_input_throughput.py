"""The rates count the images that came."""

import time

import numpy as np

from pixeldit_jax.benchmarks import input_throughput
from pixeldit_jax.data import source, transforms
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions


class Slow(source.Source):
  """Examples that take 2 ms each, whatever else the machine does."""

  class_names = ('all',)

  def __len__(self):
    return 64

  def __getitem__(self, index):
    time.sleep(0.002)
    image = np.zeros((2, 2, 3), np.uint8)
    return {'image': image, 'label': 0, 'name': str(index)}


def test_no_rate_is_above_what_the_source_can_give():
  options = LoaderOptions(resolution=2, batch_size=8, seed=0, num_threads=1)
  rates = input_throughput.measure(Slow(), options, seconds=0.6)
  assert 0 < rates['decode'] <= 500 and 0 < rates['pipeline'] <= 520
  assert rates['ratio'] == rates['pipeline'] / rates['decode']


class Buckets(Slow):
  """Two shapes, and an example that cannot be read."""

  buckets = ((2, 4), (4, 2))

  def __getitem__(self, index):
    if index == 3:
      raise transforms.BadExample('damaged')
    return super().__getitem__(index)

  def bucket_of_examples(self):
    return np.arange(64) % 2


def test_buckets_and_bad_examples_are_measured_too():
  options = LoaderOptions(resolution=2, batch_size=8, seed=0, buckets=True)
  rates = input_throughput.measure(Buckets(), options, seconds=0.6)
  assert rates['decode'] > 0 and rates['pipeline'] > 0
