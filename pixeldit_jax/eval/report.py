"""From the statistics of samples and a reference to a result worth trusting.

Definitions are the ADM suite's (arXiv 2105.05233) and KID's; the result says
what was measured on what, and why a metric is missing.
"""

import os
import sys
from collections.abc import Callable

import jax
import numpy as np

from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.files import write_json
from pixeldit_jax.images.image_sets import FolderImages, NpzImages
from pixeldit_jax.metrics.feature_extractor import INCEPTION, FeatureNetwork
from pixeldit_jax.metrics.frechet_distance import Gaussian, frechet_distance
from pixeldit_jax.metrics.image_statistics import ImageStatistics, collect
from pixeldit_jax.metrics.kernel_inception_distance import kernel_distance
from pixeldit_jax.metrics.names import NAMES
from pixeldit_jax.metrics.precision_recall import precision_recall

_BATCH = 256  # images read at a time
_COLUMN = 17  # characters of a table
_NO_FEATURES = (
  'the reference has statistics alone; precision, recall and KID need its '
  'images, or a reference written by this program'
)


def evaluate_images(
  images: NpzImages | FolderImages,
  reference: Reference,
  network: FeatureNetwork,
  *,
  settings: dict,
  progress: Callable[[int], None] | None = None,
) -> dict:
  """Computes every metric of images on disk, in one pass over them.

  Args:
    images: from `open_images`.
    progress: called with the number of images done.

  The others are those of `evaluate`, as is the result.
  """
  labels = images.labels() if network.classify else None
  batches = images.batches(_BATCH)
  samples = collect(batches, network, images.count, progress=progress)
  file = dict(images=os.fspath(images.path), checksum=images.checksum())
  return evaluate(
    samples,
    reference,
    network,
    settings=settings | file,
    more=class_agreement(samples, network, labels),
  )


def class_agreement(
  samples: ImageStatistics, network: FeatureNetwork, labels: np.ndarray | None
) -> dict[str, float]:
  """Share of samples that show the class asked for, where that is known."""
  if network.classify is None or labels is None:
    return {}
  shown = network.classify(samples.features)
  return {'class_agreement': float((shown == labels).mean())}


def evaluate(
  samples: ImageStatistics,
  reference: Reference,
  network: FeatureNetwork,
  *,
  settings: dict,
  more: dict[str, float] | None = None,
) -> dict:
  """Computes every metric that the statistics allow.

  Args:
    samples: statistics of the samples, from `collect` with the same network.
    reference: from `read_reference` with the same network.
    network: the feature network.
    settings: where the samples come from (checkpoint, EMA, sampler, guidance,
      interval, shift, steps, seed... or the path and checksum of a file), as
      JSON values; copied into the result.
    more: further metrics of the samples, such as the class agreement.

  Returns:
    A dict of JSON values: metrics, missing (metric to reason), warnings,
    settings, samples, reference, network and versions.
  """
  result = {
    'metrics': {},
    'missing': {},
    'warnings': [],
    'settings': settings,
    'samples': {'count': samples.pooled.count},
    'reference': _describe(reference),
    'network': {'name': network.name, 'checksum': network.checksum},
    'ranks': {},
    'versions': {
      'jax': jax.__version__,
      'numpy': np.__version__,
      'python': sys.version.split()[0],
      'device': jax.devices()[0].device_kind,
    },
  }
  theirs = reference.statistics
  # Only the Inception network's distance may be called FID.
  frechet = 'fid' if network.name == INCEPTION else 'frechet_distance'
  _compare_gaussians(frechet, samples.pooled, theirs.pooled, result)
  if samples.spatial and theirs.spatial:
    _compare_gaussians('sfid', samples.spatial, theirs.spatial, result)
  else:
    side = 'reference' if samples.spatial else 'feature network'
    result['missing']['sfid'] = f'the {side} has no spatial features'
  if samples.inception_score:
    mean, deviation = samples.inception_score
    result['metrics']['inception_score'] = mean
    result['metrics']['inception_score_std'] = deviation
  else:
    reason = 'the feature network has no logits'
    result['missing']['inception_score'] = reason
  _compare_features(samples.features, theirs.features, result)
  result['metrics'] |= more or {}
  return result


def _describe(reference: Reference) -> dict:
  features = reference.statistics.features
  return {
    'path': reference.path,
    'kind': reference.kind,
    'checksum': reference.checksum,
    'count': reference.statistics.pooled.count,
    'features': 0 if features is None else len(features),
  }


def _compare_gaussians(name: str, ours: Gaussian, theirs: Gaussian, result):
  """Adds a Frechet distance, the ranks behind it, and what to mind."""
  distance = frechet_distance(ours, theirs)
  result['metrics'][name] = distance.value
  result['ranks'][name] = {
    'samples': distance.ranks[0],
    'reference': distance.ranks[1],
    'features': distance.width,
  }
  sides = zip(('samples', 'reference images'), (ours, theirs), distance.ranks)
  for side, gaussian, rank in sides:
    if gaussian.count is not None and gaussian.count <= distance.width:
      result['warnings'].append(
        f'{NAMES[name]}: the covariance of {gaussian.count:,} {side} has rank '
        f'{rank:,} of {distance.width:,}. The number is larger than with more '
        f'images; compare it only with others of the same count.'
      )


def _compare_features(ours, theirs, result):
  """Adds precision, recall and KID, or the reason why they are missing."""
  metrics, missing = result['metrics'], result['missing']
  if ours is None or theirs is None:
    reason = 'the features were not kept' if ours is None else _NO_FEATURES
    missing |= dict.fromkeys(('precision', 'recall', 'kid'), reason)
    return
  try:
    precision, recall = precision_recall(ours, theirs)
    metrics |= {'precision': precision, 'recall': recall}
  except ValueError as error:
    missing |= dict.fromkeys(('precision', 'recall'), str(error))
  try:
    mean, deviation = kernel_distance(ours, theirs)
    metrics |= {'kid': mean, 'kid_std': deviation}
  except ValueError as error:
    missing['kid'] = str(error)


def write_result(path: str | os.PathLike, result: dict):
  """Writes a result as JSON; a value that is not finite is an error."""
  write_json(path, result, allow_nan=False)


def table(result: dict) -> str:
  """A few lines to print: metrics, then what is missing and what to mind."""
  metrics = result['metrics']
  lines = []
  for name, value in metrics.items():
    if name.endswith('_std'):
      continue
    deviation = metrics.get(f'{name}_std')
    spread = '' if deviation is None else f' +- {deviation:.4g}'
    lines.append(f'{NAMES.get(name, name):<18}{value:>10.4f}{spread}')
  for name, reason in result['missing'].items():
    lines.append(f'{NAMES[name]:<18}{"-":>10}  {reason}')
  count, reference = result['samples']['count'], result['reference']
  lines.append(f'{count:,} samples against {reference["path"]}')
  return '\n'.join(lines + [f'warning: {w}' for w in result['warnings']])


def table_row(result: dict, names: bool = False) -> str:
  """The metrics in one line of columns, or their names above it."""
  cells = [
    NAMES[name] if names else f'{result["metrics"][name]:.4f}'
    for name in NAMES
    if name in result['metrics']
  ]
  return ''.join(f'{cell:>{_COLUMN}}' for cell in cells)
