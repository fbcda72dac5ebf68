"""Precision and recall against plain NumPy and torch-fidelity."""

import jax
import numpy as np
import pytest

from pixeldit_jax.metrics.precision_recall import precision_recall


def _features(count, seed, spread=1.0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(count, 8)) * spread + 3).astype(np.float32)


def _by_definition(samples, reference, k):
  """All distances at once, in float64."""
  samples, reference = samples.astype(float), reference.astype(float)
  distances = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2)  # noqa: E731
  radius = lambda a: np.sort(distances(a, a), axis=1)[:, k]  # noqa: E731
  across = distances(samples, reference)
  precision = (across <= radius(reference)[None]).any(axis=1).mean()
  recall = (across <= radius(samples)[:, None]).any(axis=0).mean()
  return precision, recall


@pytest.mark.parametrize('block', [4096, 64, 37])
@pytest.mark.parametrize('neighbours', [3, 5])
def test_definition(block, neighbours):
  samples, reference = _features(130, 0, 0.7), _features(90, 1)
  with jax.transfer_guard('disallow'):
    ours = precision_recall(
      samples, reference, neighbours=neighbours, block=block
    )
  expected = _by_definition(samples, reference, neighbours)
  assert ours == pytest.approx(expected, abs=1e-12)
  assert ours[0] > ours[1]  # samples of less variety


def test_torch_fidelity_gives_the_same(torch_fidelity):
  import torch
  from torch_fidelity import metric_prc

  samples, reference = _features(130, 0, 0.7), _features(90, 1)
  theirs = metric_prc.calculate_precision_recall_full(
    torch.from_numpy(samples), torch.from_numpy(reference)
  )
  assert precision_recall(samples, reference) == pytest.approx(theirs)


def test_limits():
  features = _features(50, 0)
  assert precision_recall(features, features) == (1, 1)
  assert precision_recall(features + 1000, features) == (0, 0)


@pytest.mark.usefixtures('unchecked_signatures')
def test_bad_input_is_refused():
  with pytest.raises(ValueError, match='more than 3 images'):
    precision_recall(_features(3, 0), _features(9, 1))
  with pytest.raises(ValueError, match='width 8 and 7'):
    precision_recall(_features(9, 0), _features(9, 1)[:, :7])
