"""FID: streaming, exact cases, rank deficiency, torch-fidelity."""

import numpy as np
import pytest

from pixeldit_jax.metrics import frechet_distance


def _features(count, width=12, seed=0, shift=0.0):
  rng = np.random.default_rng(seed)
  mixing = rng.normal(size=(width, width))
  return (rng.normal(size=(count, width)) @ mixing + shift).astype(np.float32)


def _gaussian(features):
  moments = frechet_distance.Moments(features.shape[1])
  moments.update(features)
  return moments.gaussian()


def test_batches_give_numpys_covariance():
  features = _features(301, shift=1000.0)  # a mean that would cancel
  moments = frechet_distance.Moments(12)
  cuts = [0, 1, 64, 64, 65, 200, 301]
  for start, stop in zip(cuts, cuts[1:]):
    moments.update(features[start:stop])
  result = moments.gaussian()
  wide = features.astype(np.float64)
  assert result.count == 301
  np.testing.assert_allclose(result.mean, wide.mean(axis=0), rtol=1e-12)
  covariance = np.cov(wide, rowvar=False)
  np.testing.assert_allclose(result.covariance, covariance, rtol=1e-9)


def test_distance_of_gaussians_that_commute():
  a = frechet_distance.Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
  b = frechet_distance.Gaussian(np.array([0.0, 0.0]), np.diag([1.0, 16.0]))
  result = frechet_distance.frechet_distance(a, b)
  assert result.value == pytest.approx(5 + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_distance_to_itself_is_zero_even_when_rank_deficient():
  few = _gaussian(_features(8, width=64))
  result = frechet_distance.frechet_distance(few, few)
  assert result.value < 1e-9 * np.trace(few.covariance)
  assert result.ranks == (7, 7) and result.width == 64


def test_distance_does_not_depend_on_the_basis():
  a, b = _features(200), _features(150, seed=1, shift=0.5)
  rotation, _ = np.linalg.qr(_features(12, seed=2).astype(np.float64))
  one = frechet_distance.frechet_distance(_gaussian(a), _gaussian(b))
  two = frechet_distance.frechet_distance(
    _gaussian(a @ rotation), _gaussian(b @ rotation)
  )
  assert one.value == pytest.approx(two.value, rel=1e-9)


@pytest.mark.parametrize('count', [500, 40])
def test_torch_fidelity_gives_the_same_fid(torch_fidelity, count):
  import torch
  from torch_fidelity import metric_fid

  a, b = _features(count, 96), _features(count, 96, seed=1, shift=0.2)
  theirs = metric_fid.fid_statistics_to_metric(
    metric_fid.fid_features_to_statistics(torch.from_numpy(a).double()),
    metric_fid.fid_features_to_statistics(torch.from_numpy(b).double()),
    verbose=False,
  )
  ours = frechet_distance.frechet_distance(_gaussian(a), _gaussian(b))
  (theirs,) = theirs.values()
  assert ours.value == pytest.approx(theirs, rel=1e-5)
  assert ours.ranks == (min(96, count - 1),) * 2


def test_bad_features_are_refused():
  moments = frechet_distance.Moments(12)
  moments.update(_features(3))
  broken = _features(4)
  broken[2, 5] = np.nan
  with pytest.raises(ValueError, match='features of image 5 are not finite'):
    moments.update(broken)
  with pytest.raises(ValueError, match=r'expected \[B, 12\]'):
    moments.update(_features(4, width=11))
  with pytest.raises(ValueError, match='at least 2 images'):
    frechet_distance.Moments(12).gaussian()


def test_bad_gaussians_are_refused():
  good = _gaussian(_features(30))
  other = _gaussian(_features(30, width=7))
  with pytest.raises(ValueError, match='width 12 and 7'):
    frechet_distance.frechet_distance(good, other)
  negative = frechet_distance.Gaussian(good.mean, -good.covariance)
  with pytest.raises(ValueError, match='Not a covariance'):
    frechet_distance.frechet_distance(good, negative)
