"""One pass gives what each metric computes alone, whatever the batches."""

import numpy as np
import pytest

from pixeldit_jax.metrics import feature_extractor, image_statistics
from pixeldit_jax.metrics.inception_score import InceptionScore


def _images(count=31):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 4, 4, 3), np.uint8)


def _batches(images, size):
  return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize('size', [7, 64])
def test_statistics_of_all_features(tiny_network, size):
  images = _images()
  done = []
  result = image_statistics.collect(
    _batches(images, size), tiny_network, 31, progress=done.append
  )
  (all_at_once,) = tiny_network.extract([images])
  np.testing.assert_array_equal(result.features, all_at_once.pooled)
  for gaussian, values in (
    (result.pooled, all_at_once.pooled),
    (result.spatial, all_at_once.spatial),
  ):
    wide = values.astype(np.float64)
    assert gaussian.count == 31
    np.testing.assert_allclose(gaussian.mean, wide.mean(axis=0))
    np.testing.assert_allclose(gaussian.covariance, np.cov(wide.T))
  score = InceptionScore()
  score.update(all_at_once.logits)
  assert result.inception_score == pytest.approx(score.result())
  assert done[-1] == 31 and done == sorted(done)


@pytest.mark.parametrize('keep', [1, 10, 31, 50])
def test_features_are_kept_at_even_distances(tiny_network, keep):
  images = _images()
  (whole,) = tiny_network.extract([images])
  kept = image_statistics.collect(
    _batches(images, 7), tiny_network, 31, keep=keep
  ).features
  keep = min(keep, 31)
  np.testing.assert_array_equal(
    kept, whole.pooled[np.arange(keep) * 31 // keep]
  )


def test_no_features_are_kept_where_none_are_asked_for(tiny_network):
  result = image_statistics.collect([_images()], tiny_network, 31, keep=0)
  assert result.features is None and result.pooled.count == 31


def test_another_count_is_refused(tiny_network):
  batches = _batches(_images(), 8)
  with pytest.raises(ValueError, match='There are 31 images, expected 50'):
    image_statistics.collect(batches, tiny_network, 50)
  with pytest.raises(ValueError, match='more than the expected 30'):
    image_statistics.collect(batches, tiny_network, 30)
  with pytest.raises(ValueError, match='at least 2 images; there are 1'):
    image_statistics.collect([_images(1)], tiny_network, 1)


def test_features_that_are_not_finite_are_refused(tiny_network):
  def extract(batches):
    for part in tiny_network.extract(batches):
      part.pooled[3] = np.nan
      yield part

  network = feature_extractor.FeatureNetwork('broken', '', (6, 4, 10), extract)
  with pytest.raises(ValueError, match='features of image 3 are not finite'):
    image_statistics.collect([_images()], network, 31)
