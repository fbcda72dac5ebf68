"""Pictures to store, and a cache of indexes for each test."""

import io
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
