"""The metrics: a new one is a line here, and a file with what it computes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pixeldit_jax.metrics.kernel_inception_distance import kernel_distance
from pixeldit_jax.metrics.precision_recall import precision_recall
from pixeldit_jax.typing import Float

# f(samples, reference): pooled features [I, D] and [J, D] to some numbers.
# Raises UserError where there are too few.
OfFeatures = Callable[
  [Float[np.ndarray, 'I D'], Float[np.ndarray, 'J D']], tuple[float, ...]
]


class Metric(NamedTuple):
  """One or more numbers that are computed together.

  Attributes:
    titles: by the name of each in results and in TensorBoard, how people write
      it. A standard deviation has the name of its mean and `_std`.
    of_features: gives the numbers, where pooled features of all images are
      enough; `eval.report` computes the others.
    training: feature networks whose evaluations during training give it.
  """

  titles: dict[str, str]
  of_features: OfFeatures | None = None
  training: tuple[str, ...] = ()


METRICS = (
  Metric({'fid': 'FID'}, training=('inception',)),
  Metric(
    {'frechet_distance': 'Frechet'},
    training=('digits', 'efficientnet_lite0'),
  ),
  Metric({'sfid': 'sFID'}, training=('inception',)),
  Metric({'inception_score': 'IS'}, training=('inception',)),
  Metric(
    {'precision': 'precision', 'recall': 'recall'},
    precision_recall,
    training=('digits',),
  ),
  Metric({'kid': 'KID', 'kid_std': 'KID deviation'}, kernel_distance),
  Metric({'class_agreement': 'class agreement'}, training=('digits',)),
  Metric(
    {'patch_borders': 'patch borders', 'patch_borders_data': 'of the data'},
    training=('inception', 'efficientnet_lite0', 'digits', 'none'),
  ),
)
# Of networks of texts, while they train; see `eval.captions`.
OF_CAPTIONS = {'caption_rank': 'caption rank', 'caption_top1': 'caption first'}
TITLES = OF_CAPTIONS | {
  name: title for metric in METRICS for name, title in metric.titles.items()
}
# Of the EMA, on images that are not trained on; another evaluator gives it.
HELD_OUT_LOSS = 'held_out_loss'
FEATURE_NETWORKS = ('inception', 'efficientnet_lite0', 'digits', 'none')


def metrics_in_training(network: str) -> list[str]:
  """Names of the metrics that evaluations during training give."""
  return [
    name
    for metric in METRICS
    if network in metric.training
    for name in metric.titles
  ]
