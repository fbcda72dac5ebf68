"""Metrics and pictures of evaluators are told apart."""

import numpy as np

from pixeldit_jax.train.evaluator import split_results


def test_pictures_and_metrics_are_separated():
  picture = np.zeros((2, 3, 3), np.uint8)
  found = [('fid', np.float32(2.5)), ('samples', picture), ('recall', 0.5)]
  metrics, images = split_results(found)
  assert metrics == dict(fid=2.5, recall=0.5)
  assert type(metrics['fid']) is float
  assert images == dict(samples=picture)
