"""The share of samples that show the class that was asked for."""

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Int


def class_agreement(
  shown: Int[np.ndarray, 'I'], labels: Int[np.ndarray, 'J']
) -> float:
  """Share of images whose class is the label, 0 to 1.

  Args:
    shown: the class that a classifier sees in each image.
    labels: the class that was asked for, as many as there are images.

  Raises:
    UserError: no labels, or not one for each image.
  """
  labels = np.asarray(labels)
  if labels.shape != (len(shown),) or not len(labels):
    raise UserError(
      f'Got {len(shown)} images and labels of shape {labels.shape}; each '
      'image needs one label.'
    )
  return float((shown == labels).mean())
