"""Inception Score: known values, any batches, torch-fidelity."""

import numpy as np
import pytest

from pixeldit_jax.metrics.inception_score import InceptionScore


def _score(logits, split=5000, batch=64):
  score = InceptionScore(split)
  for start in range(0, len(logits), batch):
    score.update(logits[start : start + batch])
  return score.result()


def test_certain_and_balanced_predictions_score_the_number_of_classes():
  logits = 1e4 * np.eye(10)[np.arange(500) % 10]
  mean, deviation = _score(logits, split=100)
  assert mean == pytest.approx(10) and deviation == pytest.approx(0, abs=1e-9)


def test_one_prediction_for_all_scores_one():
  assert _score(np.ones((64, 1008)))[0] == pytest.approx(1)


def test_batches_do_not_matter():
  logits = np.random.default_rng(0).normal(size=(230, 20)) * 3
  whole = _score(logits, split=50, batch=1000)
  assert _score(logits, split=50, batch=7) == pytest.approx(whole, rel=1e-12)


def test_torch_fidelity_gives_the_same_score(torch_fidelity):
  import torch
  from torch_fidelity import metric_isc

  logits = np.random.default_rng(0).normal(size=(500, 1008)) * 3
  theirs = metric_isc.isc_features_to_metric(
    torch.from_numpy(logits), splits=10, shuffle=False
  )
  assert _score(logits, split=50) == pytest.approx(
    (theirs['inception_score_mean'], theirs['inception_score_std']), rel=1e-9
  )


def test_no_images_are_refused():
  with pytest.raises(ValueError, match='no images'):
    InceptionScore().result()
