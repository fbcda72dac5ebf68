"""KID: unbiased, and torch-fidelity's number for the same seed."""

import numpy as np
import pytest

from pixeldit_jax.metrics.kernel_inception_distance import kernel_distance


def _features(count, seed, shift=0.0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(count, 32)) + shift).astype(np.float32)


def test_torch_fidelity_gives_the_same_distance(torch_fidelity):
  import torch
  from torch_fidelity import metric_kid

  a, b = _features(150, 0), _features(120, 1, shift=0.1)
  theirs = metric_kid.kid_features_to_metric(
    torch.from_numpy(a).double(),
    torch.from_numpy(b).double(),
    kid_subsets=20,
    kid_subset_size=100,
    verbose=False,
  )
  ours = kernel_distance(a, b, subsets=20, subset_size=100)
  assert ours == pytest.approx(tuple(theirs.values()), rel=1e-9)


def test_unbiased_where_both_sets_are_alike():
  mean, deviation = kernel_distance(
    _features(400, 0), _features(400, 1), subsets=50, subset_size=100
  )
  assert abs(mean) < deviation


@pytest.mark.usefixtures('unchecked_signatures')
def test_bad_input_is_refused():
  with pytest.raises(ValueError, match='1,000 images; there are 99 samples'):
    kernel_distance(_features(99, 0), _features(200, 1))
  with pytest.raises(ValueError, match='width 32 and 31'):
    kernel_distance(_features(9, 0), _features(9, 1)[:, :31])
