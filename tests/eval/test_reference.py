"""References of every kind are read; of other networks or damaged, refused."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.data.transforms import center_crop, decode
from pixeldit_jax.eval import reference
from pixeldit_jax.eval.statistics_file import write_statistics
from pixeldit_jax.metrics import feature_extractor
from pixeldit_jax.metrics.image_statistics import collect


def _images(count=31, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 4, 4, 3), np.uint8)


def _statistics(network, images):
  return collect([images], network, len(images))


def _arrays(statistics, spatial=True):
  arrays = {
    'mu': statistics.pooled.mean,
    'sigma': statistics.pooled.covariance,
  }
  if spatial:
    arrays['mu_s'] = statistics.spatial.mean
    arrays['sigma_s'] = statistics.spatial.covariance
  return arrays


def _assert_equal(ours, expected):
  np.testing.assert_allclose(ours.mean, expected.mean)
  np.testing.assert_allclose(ours.covariance, expected.covariance)


def test_adm_batch_takes_fid_from_its_statistics(tiny_network, tmp_path):
  batch, larger = _images(), _statistics(tiny_network, _images(200, seed=1))
  np.savez(tmp_path / 'adm.npz', batch, **_arrays(larger))
  read = reference.read_reference(tmp_path / 'adm.npz', tiny_network)
  assert read.kind == 'adm'
  _assert_equal(read.statistics.pooled, larger.pooled)
  _assert_equal(read.statistics.spatial, larger.spatial)
  expected = _statistics(tiny_network, batch).features
  np.testing.assert_array_equal(read.statistics.features, expected)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_edm_and_jit_statistics(tiny_network, tmp_path, dtype):
  expected = _statistics(tiny_network, _images())
  arrays = _arrays(expected, spatial=False)
  arrays = {name: array.astype(dtype) for name, array in arrays.items()}
  np.savez(tmp_path / 'a.npz', **arrays)
  read = reference.read_reference(tmp_path / 'a.npz', tiny_network)
  assert read.kind == 'statistics' and read.statistics.features is None
  assert read.statistics.spatial is None
  assert read.statistics.pooled.count is None
  np.testing.assert_allclose(
    read.statistics.pooled.covariance, expected.pooled.covariance, rtol=1e-5
  )


def test_images_as_npz_and_as_folder(tiny_network, tmp_path):
  images = _images()
  np.savez(tmp_path / 'a.npz', images)
  (tmp_path / 'folder').mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / 'folder' / f'{i:03d}.png')
  expected = _statistics(tiny_network, images)
  for name in ('a.npz', 'folder'):
    read = reference.read_reference(tmp_path / name, tiny_network)
    assert read.kind == 'images' and len(read.checksum) == 64
    _assert_equal(read.statistics.pooled, expected.pooled)
    np.testing.assert_array_equal(read.statistics.features, expected.features)


def test_own_statistics_are_read_back(tiny_network, tmp_path):
  expected = _statistics(tiny_network, _images())
  path = tmp_path / 'own.npz'
  write_statistics(path, expected, tiny_network, 'noise')
  read = reference.read_reference(path, tiny_network)
  assert read.kind == 'own' and read.statistics.pooled.count == 31
  _assert_equal(read.statistics.pooled, expected.pooled)
  _assert_equal(read.statistics.spatial, expected.spatial)
  np.testing.assert_array_equal(read.statistics.features, expected.features)
  assert [p.name for p in tmp_path.iterdir()] == ['own.npz']


def test_sources_are_cropped_as_for_training(tiny_network, tmp_path):
  rng = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    (tmp_path / name).mkdir()
    for i in range(3):
      pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
      Image.fromarray(pixels).save(tmp_path / name / f'{i}.png')
  spec = f'folder:{tmp_path}'
  read = reference.read_reference(spec, tiny_network, resolution=4, keep=2)
  source = open_source(spec)
  images = [decode(source[i]['image']) for i in range(6)]
  expected = np.stack([center_crop(image, 4) for image in images])
  _assert_equal(
    read.statistics.pooled, _statistics(tiny_network, expected).pooled
  )
  assert read.kind == 'source' and len(read.statistics.features) == 2
  assert read.checksum == hashlib.sha256(expected).hexdigest()
  with pytest.raises(ValueError, match='--resolution'):
    reference.read_reference(spec, tiny_network)
  (tmp_path / 'dog' / '1.png').write_bytes(b'no image')
  with pytest.raises(ValueError, match='image 4 cannot be read'):
    reference.read_reference(spec, tiny_network, resolution=4)


def test_prepared_data_are_measured_at_their_own_resolution(
  tiny_network, tmp_path, caplog
):
  (tmp_path / 'in' / 'a').mkdir(parents=True)
  for i in range(3):
    pixels = np.full((24, 48, 3), 40 * i, np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'in' / 'a' / f'{i}.png')
  settings = PrepareSettings(
    f'folder:{tmp_path}/in', 16, bucketed=True, patch_size=4
  )
  prepare.prepare(settings, str(tmp_path / 'out'), num_processes=1)
  spec = f'shards:{tmp_path}/out'
  with caplog.at_level('INFO'):
    images = reference.SourceImages(spec, 16)
  assert [batch.shape for batch in images.batches(2)] == [
    (2, 16, 16, 3),
    (1, 16, 16, 3),
  ]
  assert 'its images are cut square' in caplog.text
  kept = reference.SourceImages(spec, None)
  (wide,) = {batch.shape[1:3] for batch in kept.batches(2)}
  assert wide[1] > wide[0]
  with pytest.raises(
    ValueError, match='prepared at 16 pixels, and images of 8'
  ):
    reference.read_reference(spec, tiny_network, resolution=8)


def test_other_networks_are_refused(tiny_network, tmp_path):
  statistics = _statistics(tiny_network, _images())
  path = tmp_path / 'own.npz'
  write_statistics(path, statistics, tiny_network, 'noise')
  for name, checksum in (
    ('digits', 'abc'),
    (feature_extractor.INCEPTION, 'other'),
  ):
    other = feature_extractor.FeatureNetwork(
      name, checksum, tiny_network.widths, tiny_network.extract
    )
    with pytest.raises(ValueError, match='another feature network'):
      reference.read_reference(path, other)
  np.savez(tmp_path / 'wide.npz', mu=np.zeros(8), sigma=np.eye(8))
  with pytest.raises(ValueError, match=r'mu is of \(8,\).*has 6 features'):
    reference.read_reference(tmp_path / 'wide.npz', tiny_network)


def _savez(**arrays):
  return lambda path: np.savez(path, **arrays)


def _change_statistics(path):
  """Keeps the recorded checksums, but another mean."""
  with np.load(path) as arrays:
    arrays = dict(arrays)
  arrays['mu'] = arrays['mu'] + 1
  np.savez(path, **arrays)


def _change_format(path):
  np.savez(path, meta=np.array(json.dumps({'format': 9})))


@pytest.mark.parametrize(
  'write, reason',
  [
    (_savez(mu=np.full(6, np.nan), sigma=np.eye(6)), 'mu has .* not finite'),
    (_savez(mu=np.zeros(6), sigma=np.triu(np.ones((6, 6)))), 'not symmetric'),
    (_savez(mu=np.zeros(6, int), sigma=np.eye(6)), 'expected floats'),
    (_savez(mean=np.zeros(6)), "holds .'mean'.; a reference has arr_0"),
    (_savez(arr_0=np.zeros((4, 4, 4, 3))), 'holds float64'),
    (lambda path: path.write_bytes(b'\x80\x04pickle'), 'Pickled statistics'),
    (_change_statistics, 'damaged: mu is not what was written'),
    (_change_format, 'of format 9, this program reads 1'),
  ],
)
def test_bad_references_are_refused(tiny_network, tmp_path, write, reason):
  path = tmp_path / 'a.npz'
  statistics = _statistics(tiny_network, _images())
  write_statistics(path, statistics, tiny_network, 'noise')
  write(path)
  with pytest.raises(ValueError, match=reason):
    reference.read_reference(path, tiny_network)


def test_absent_reference(tiny_network, tmp_path):
  with pytest.raises(FileNotFoundError, match='No reference at'):
    reference.read_reference(tmp_path / 'a.npz', tiny_network)
