"""The share of samples with the right class, and labels that do not fit."""

import numpy as np
import pytest

from pixeldit_jax.errors import UserError
from pixeldit_jax.metrics.class_agreement import class_agreement


def test_it_is_the_share_of_equal_classes():
  assert class_agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 0.75


@pytest.mark.parametrize('shown, labels', [(2, 3), (0, 0)])
def test_labels_that_do_not_fit_are_refused(shown, labels):
  with pytest.raises(UserError, match='one label'):
    class_agreement(np.zeros(shown, int), np.zeros(labels, int))
