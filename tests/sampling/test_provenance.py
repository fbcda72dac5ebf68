"""Settings next to images: of older code too, and of other images refused."""

import json

import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling import provenance


def test_keys_that_are_younger_than_the_images_have_their_defaults(tmp_path):
  images = tmp_path / 'samples.npz'
  sampler = get_config().sampler.to_dict()
  del sampler['batch_size']
  stored = json.loads(json.dumps(dict(seed=0, sampler=sampler)))
  del stored['sampler']['start']
  path = provenance.path_of(images)
  path.write_text(json.dumps(stored))
  read = provenance.read_settings(images)
  assert read['sampler']['start'] == get_config().sampler.start
  provenance.check_same(images, read, dict(seed=0, sampler=sampler) | read)
  other = dict(read, sampler=read['sampler'] | dict(start=0.5))
  with pytest.raises(UserError, match='sampler.start: 0.0 stored, 0.5 asked'):
    provenance.check_same(images, read, other)


def test_what_was_not_started_has_no_settings(tmp_path):
  assert provenance.read_settings(tmp_path / 'samples.npz') is None
  provenance.write_settings(tmp_path / 'new' / 'out', dict(b=1, a=(2, 3)))
  read = provenance.read_settings(tmp_path / 'new' / 'out')
  assert list(read) == ['a', 'b'] and read['a'] == [2, 3]
