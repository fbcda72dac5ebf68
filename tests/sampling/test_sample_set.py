"""A set on disk: whole, the same however it was made, gone on with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax import outputs, sharding
from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling import sample_set, set_pictures
from pixeldit_jax.sampling.checkpoint_weights import fingerprint


def _make(tiny_run, path, count=25, **options):
  return sample_set.make_sample_set(*tiny_run, path, count, **options)


@pytest.mark.slow
def test_images_of_classes_have_other_sizes_too(tiny_run, tmp_path):
  wide = _make(tiny_run, tmp_path / 'wide.npz', 3, size=(28, 56))
  with np.load(tmp_path / 'wide.npz') as file:
    assert file['arr_0'].shape == (3, 28, 56, 3)
  square = _make(tiny_run, tmp_path / 'a.npz', 3, size=(28, 28))
  assert wide == square | dict(size=[28, 56]) and 'size' not in square
  with pytest.raises(UserError, match='30 x 28 does not divide into patches'):
    _make(tiny_run, tmp_path / 'b.npz', 3, size=(30, 28))
  with pytest.raises(UserError, match='other settings'):
    _make(tiny_run, tmp_path / 'wide.npz', 3)
  assert not (tmp_path / 'b.npz').exists()


@pytest.mark.slow
def test_a_set_and_its_pictures(tiny_run, tmp_path):
  path = tmp_path / 'samples.npz'
  settings = _make(tiny_run, path, labels='7,3')
  with np.load(path) as file:
    images, labels = file['arr_0'], file['arr_1']
  assert images.shape == (25, 28, 28, 3) and images.dtype == np.uint8
  np.testing.assert_array_equal(labels, np.resize([7, 3], 25))
  assert settings['step'] == 4 and settings['ema'] and settings['seed'] == 0
  assert settings['sampler']['guidance'] == tiny_run[0].config.sampler.guidance
  set_pictures.write_pngs(tmp_path / 'images', path)
  set_pictures.write_pngs(tmp_path / 'images', path)
  last = np.asarray(Image.open(tmp_path / 'images' / '000024.png'))
  np.testing.assert_array_equal(last, images[24])
  set_pictures.write_grid(tmp_path / 'grid.png', path)
  assert Image.open(tmp_path / 'grid.png').size[0] > 800
  names = [p.name for p in tmp_path.iterdir() if p.name[0] != '.']
  assert sorted(names) == [
    *('grid.png', 'images', 'samples.npz', 'samples.npz.json')
  ]


def test_pictures_of_an_older_set_are_known_by_their_pixels(tiny_run, tmp_path):
  path = tmp_path / 'samples.npz'
  _make(tiny_run, path, 3)
  set_pictures.write_pngs(tmp_path / 'images', path)
  set_pictures.write_grid(tmp_path / 'samples.png', path)
  (tmp_path / outputs.MANIFEST).unlink()  # older sets have none
  theirs = tmp_path / 'images' / '000001.png'
  kept = theirs.read_bytes()
  Image.new('RGB', (28, 28)).save(theirs)
  set_pictures.adopt_older(tmp_path)
  set_pictures.write_grid(tmp_path / 'samples.png', path)
  with pytest.raises(UserError, match='000001.png.: not written'):
    set_pictures.write_pngs(tmp_path / 'images', path)
  theirs.write_bytes(kept)
  (tmp_path / outputs.MANIFEST).unlink()
  set_pictures.adopt_older(tmp_path)
  set_pictures.write_pngs(tmp_path / 'images', path)
  _make(tiny_run, path, 4, overwrite=True)


def test_the_speed_is_that_of_whole_batches(tiny_run, tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(
    sample_set,
    'Progress',
    lambda verb, count: lambda n: told.append((n, count)),
  )
  monkeypatch.setattr(sample_set, 'SHARD', 3)  # batches are of 8
  _make(tiny_run, tmp_path / 'a.npz', 20)
  assert told == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.slow
def test_stopped_after_any_shard_it_goes_on(tiny_run, tmp_path, monkeypatch):
  monkeypatch.setattr(sample_set, 'SHARD', 3)  # batches are of 8
  _make(tiny_run, tmp_path / 'a.npz')
  write = sample_set.SampleStore.write

  def stop_at(start):
    def stopping(store, span, images):
      if span.start == start:
        raise KeyboardInterrupt
      write(store, span, images)

    return stopping

  for start in (6, 21):
    with monkeypatch.context() as patch:
      patch.setattr(sample_set.SampleStore, 'write', stop_at(start))
      with pytest.raises(KeyboardInterrupt):
        _make(tiny_run, tmp_path / 'b.npz')
  _make(tiny_run, tmp_path / 'b.npz')
  assert (tmp_path / 'b.npz').read_bytes() == (tmp_path / 'a.npz').read_bytes()


def test_another_sampler_is_not_continued(tiny_run, tmp_path):
  context, ref = tiny_run
  _make(tiny_run, tmp_path / 'a.npz', 3)
  config = context.config.copy_and_resolve_references()
  config.sampler.guidance = 1.5
  other = dataclasses.replace(context, config=config)
  with pytest.raises(UserError, match='sampler.guidance: 3.25 stored, 1.5'):
    _make((other, ref), tmp_path / 'a.npz', 3)
  raw = dataclasses.replace(ref, ema=False)
  with pytest.raises(UserError, match='ema: True stored, False asked'):
    _make((context, raw), tmp_path / 'a.npz', 3)
  _make((other, ref), tmp_path / 'a.npz', 3, overwrite=True)


def test_weights_are_told_apart_on_any_mesh():
  tree = {'a': jnp.arange(16.0).reshape(8, 2), 'b': jnp.ones(3, jnp.bfloat16)}
  mesh = sharding.make_mesh({'fsdp': 8})
  split = dict(tree, a=jax.device_put(tree['a'], sharding.batch_sharding(mesh)))
  known = fingerprint(tree)
  assert fingerprint(split) == known and len(known) == 16
  swapped = dict(tree, a=tree['a'][::-1])
  changed = dict(tree, a=tree['a'].at[3, 1].add(1e-6))
  renamed = {'c': tree['a'], 'b': tree['b']}
  prints = [fingerprint(t) for t in (tree, swapped, changed, renamed)]
  assert len(set(prints)) == 4
