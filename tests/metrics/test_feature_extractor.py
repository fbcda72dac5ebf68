"""Features do not depend on batches or devices; other images are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.encoders.inception import Features, Inception
from pixeldit_jax.metrics import feature_extractor


class Moments(nnx.Module):
  """A feature network small enough for every test: weighted pixel means."""

  def __init__(self):
    self.scale = nnx.Param(jnp.arange(1.0, 4.0))

  def __call__(self, images):
    x = images.astype(jnp.float32) * self.scale
    return Features(x.mean(axis=(1, 2)))


def _images(count, side=6):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def _batches(images, size):
  return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('batch_size, read', [(7, 64), (64, 7), (16, 16)])
def test_any_batch_and_devices(devices, batch_size, read):
  images = _images(53)
  extract = feature_extractor.Extractor(
    Moments(), batch_size, jax.devices()[:devices]
  )
  parts = list(extract(_batches(images, read)))
  pooled = np.concatenate([part.pooled for part in parts])
  expected = images.mean(axis=(1, 2)) * np.arange(1, 4)
  np.testing.assert_allclose(pooled, expected, rtol=1e-6)
  assert all(len(part.pooled) == extract.batch_size for part in parts[:-1])


def test_images_of_several_sizes_keep_their_order():
  batches = [_images(3), _images(9, side=7), _images(2), _images(1)]
  parts = list(feature_extractor.Extractor(Moments(), 8)(batches))
  pooled = np.concatenate([part.pooled for part in parts])
  expected = np.concatenate([images.mean(axis=(1, 2)) for images in batches])
  np.testing.assert_allclose(pooled, expected * np.arange(1, 4), rtol=1e-6)


def test_reads_one_batch_ahead_and_no_more():
  extract = feature_extractor.Extractor(Moments(), 8)
  drawn = []

  def source():
    for i in range(6):
      drawn.append(i)
      yield _images(8)

  for i, _ in enumerate(extract(source())):
    assert len(drawn) <= i + 2


def test_runs_where_implicit_transfers_are_forbidden():
  extract = feature_extractor.Extractor(Moments(), 8)
  with jax.transfer_guard('disallow'):
    (part,) = extract([_images(3)])
  assert part.pooled.shape == (3, 3) and part.spatial is None


@pytest.mark.parametrize(
  'batches, reason',
  [
    ([_images(2).astype(np.float32)], 'dtype float32; metrics are of uint8'),
    ([_images(2)[..., :1]], r'shape \(2, 6, 6, 1\)'),
  ],
)
def test_other_images_are_refused(batches, reason):
  with pytest.raises(ValueError, match=reason):
    list(feature_extractor.Extractor(Moments(), 8)(batches))


@pytest.mark.slow
def test_inception_on_eight_devices_is_inception_on_one():
  model = Inception(rngs=nnx.Rngs(0))
  images = _images(11, side=32)
  results = []
  for devices, batch_size in ((jax.devices(), 8), (jax.devices()[:1], 7)):
    network = feature_extractor.inception_network(
      model, '', batch_size=batch_size, devices=devices
    )
    parts = list(network.extract([images]))
    results.append(jax.tree.map(lambda *x: np.concatenate(x), *parts))
  assert tuple(x.shape[1] for x in results[0]) == network.widths
  for ours, theirs in zip(*results):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)
