"""Pictures to store, and a cache of indexes for each test."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """Where the indexes of this test are kept."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'pixeldit_jax' / 'indexes'


@pytest.fixture
def encode():
  """f(i) -> the bytes of picture i, noise that no codec makes smaller."""

  def make(i, height=9, width=8, form='PNG'):
    pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()

  return make


@pytest.fixture
def golden_picture():
  """f(i) -> the pixels of picture i in `files`, see its make_files.py."""

  def make(i):
    shape = (6 + i, 8, 3)
    values = np.arange(np.prod(shape)) * (7 + i) % 256
    return values.astype(np.uint8).reshape(shape)

  return make


@pytest.fixture
def read():
  """f(source) -> its examples, as a worker reads them from a small pickle."""

  def read_all(source):
    data = pickle.dumps(source)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert copy.class_names == source.class_names
    assert copy.captions == source.captions
    examples = [copy[i] for i in range(len(copy))]
    assert len({example['name'] for example in examples}) == len(examples)
    return examples

  return read_all


@pytest.fixture
def pixels():
  """f(example) -> its decoded pixels."""
  return lambda example: np.asarray(transforms.decode(example['image']))


@pytest.fixture
def check_resume():
  """f(start, hosts): a resume on other hosts gives the batches of one host.

  `start(host, hosts)` opens the batches of a host; after three of two hosts,
  the state goes to so many.
  """

  def check(start, hosts):
    unbroken = start(0, 1)
    want = [next(unbroken) for _ in range(8)]
    first = [start(host, 2) for host in range(2)]
    got = [[next(part) for part in first] for _ in range(3)]
    state = json.loads(json.dumps(first[0].get_state()))
    second = [start(host, hosts) for host in range(hosts)]
    for part in second:
      part.set_state(state)
    got += [[next(part) for part in second] for _ in range(5)]
    for batch, parts in zip(want, got):
      for key in ('id', 'label', 'image'):
        joined = np.concatenate([part[key] for part in parts])
        np.testing.assert_array_equal(batch[key], joined)
    for iterator in (unbroken, *first, *second):
      iterator.close()

  return check
