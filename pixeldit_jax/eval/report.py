"""From the statistics of samples and a reference to a result worth trusting.

Definitions are the ADM suite's (arXiv 2105.05233) and KID's; the result says
what was measured on what, and why a metric is missing.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.files import write_json
from pixeldit_jax.images.image_sets import FolderImages, NpzImages
from pixeldit_jax.metrics.class_agreement import class_agreement
from pixeldit_jax.metrics.feature_extractor import INCEPTION, FeatureNetwork
from pixeldit_jax.metrics.frechet_distance import Gaussian, frechet_distance
from pixeldit_jax.metrics.image_statistics import ImageStatistics, collect
from pixeldit_jax.metrics.table import METRICS, TITLES
from pixeldit_jax.typing import Float, Int

_BATCH = 256  # images read at a time
_COLUMN = 17  # characters of a column in the table of a sweep
_DEVIATION = '_std'  # how the name of a standard deviation ends
_NO_FEATURES = (
  'the reference has only statistics; precision, recall and KID need its '
  'images, or a reference written by this program'
)


def evaluate_images(
  images: NpzImages | FolderImages,
  reference: Reference,
  network: FeatureNetwork,
  *,
  settings: dict,
  progress: Callable[[int], None] | None = None,
  patch: int = 0,
) -> dict:
  """Computes every metric of images on disk, in one pass over them.

  Args:
    images: from `open_images`.
    reference, network, settings, patch: see `evaluate`, as for the result.
    progress: called with the number of images done.
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
    labels=labels,
    patch=patch,
  )


def evaluate(
  samples: ImageStatistics,
  reference: Reference,
  network: FeatureNetwork,
  *,
  settings: dict,
  labels: Int[np.ndarray, 'B'] | None = None,
  patch: int = 0,
) -> dict:
  """Computes every metric that the statistics allow.

  Args:
    samples: statistics of the samples, from `collect` with the same network.
    reference: from `read_reference` with the same network.
    network: the feature network.
    settings: where the samples come from (checkpoint, EMA, sampler, guidance,
      interval, shift, steps, seed... or the path and checksum of a file), as
      JSON values; copied into the result.
    labels: the class that was asked for in each sample, where that is known.
    patch: side of the network's patches, 0 where it is not known.

  Returns:
    A dict of JSON values: metrics, missing (metric to reason), warnings,
    settings, samples, reference, network, ranks and versions.
  """
  result = _new_result(samples, reference, network, settings)
  _compare_borders(samples, reference.statistics, patch, result)
  if not network.widths[0]:
    return result
  expected = reference.statistics
  # Only the Inception network's distance may be called FID.
  frechet = 'fid' if network.name == INCEPTION else 'frechet_distance'
  _compare_gaussians(frechet, samples.pooled, expected.pooled, result)
  if samples.spatial and expected.spatial:
    _compare_gaussians('sfid', samples.spatial, expected.spatial, result)
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
  _compare_features(samples.features, expected.features, result)
  if network.classify and labels is not None and samples.features is not None:
    shown = network.classify(samples.features)
    result['metrics']['class_agreement'] = class_agreement(shown, labels)
  return result


def _new_result(
  samples: ImageStatistics,
  reference: Reference,
  network: FeatureNetwork,
  settings: dict,
) -> dict[str, Any]:
  """A result without metrics: what will be measured on what."""
  return {
    'metrics': {},
    'missing': {},
    'warnings': [],
    'settings': settings,
    'samples': {'count': samples.pooled.count},
    'reference': _describe_reference(reference),
    'network': {'name': network.name, 'checksum': network.checksum},
    'ranks': {},
    'versions': {
      'jax': jax.__version__,
      'numpy': np.__version__,
      'python': sys.version.split()[0],
      'device': jax.devices()[0].device_kind,
    },
  }


def _compare_borders(
  samples: ImageStatistics, reference: ImageStatistics, patch: int, result: dict
) -> None:
  """Adds how much patches are seen, in the samples and in the reference."""
  for name, statistics in (
    ('patch_borders', samples),
    ('patch_borders_data', reference),
  ):
    differences = statistics.differences
    if patch and differences:
      ratio = differences.border_ratio(patch)
      if ratio is not None:
        result['metrics'][name] = ratio


def _describe_reference(reference: Reference) -> dict:
  features = reference.statistics.features
  return {
    'path': reference.path,
    'kind': reference.kind,
    'checksum': reference.checksum,
    'count': reference.statistics.pooled.count,
    'features': 0 if features is None else len(features),
  }


def _compare_gaussians(
  name: str, samples: Gaussian, reference: Gaussian, result: dict
) -> None:
  """Adds a Frechet distance, the ranks behind it, and warnings."""
  distance = frechet_distance(samples, reference)
  result['metrics'][name] = distance.value
  result['ranks'][name] = {
    'samples': distance.ranks[0],
    'reference': distance.ranks[1],
    'features': distance.width,
  }
  for side, gaussian, rank in zip(
    ('samples', 'reference images'), (samples, reference), distance.ranks
  ):
    if gaussian.count is not None and gaussian.count <= distance.width:
      result['warnings'].append(
        f'{TITLES[name]}: the covariance of {gaussian.count:,} {side} has rank '
        f'{rank:,} of {distance.width:,}. The number is larger than with more '
        f'images; compare it only with others of the same count.'
      )


def _compare_features(
  samples: Float[np.ndarray, 'I D'] | None,
  reference: Float[np.ndarray, 'J D'] | None,
  result: dict,
) -> None:
  """Adds the metrics of two sets of features, or why they are missing."""
  for metric in METRICS:
    if metric.of_features is None:
      continue
    try:
      if samples is None:
        raise UserError('the features were not kept')
      if reference is None:
        raise UserError(_NO_FEATURES)
      values = metric.of_features(samples, reference)
      result['metrics'] |= zip(metric.titles, values)
    except UserError as error:  # such as too few images
      names = [n for n in metric.titles if not n.endswith(_DEVIATION)]
      result['missing'] |= dict.fromkeys(names, str(error))


def write_result(path: str | os.PathLike, result: dict) -> None:
  """Writes a result as JSON; a value that is not finite is an error."""
  write_json(path, result, allow_nan=False)


def result_table(result: dict) -> str:
  """A few lines to print: metrics, what is missing, and warnings."""
  metrics = result['metrics']
  lines = []
  for name, value in metrics.items():
    if name.endswith(_DEVIATION):
      continue
    deviation = metrics.get(name + _DEVIATION)
    spread = '' if deviation is None else f' +- {deviation:.4g}'
    lines.append(f'{TITLES.get(name, name):<18}{value:>10.4f}{spread}')
  for name, reason in result['missing'].items():
    lines.append(f'{TITLES.get(name, name):<18}{"-":>10}  {reason}')
  count, reference = result['samples']['count'], result['reference']
  lines.append(f'{count:,} samples against {reference["path"]}')
  return '\n'.join(lines + [f'warning: {w}' for w in result['warnings']])


def table_row(result: dict, names: bool = False) -> str:
  """The metrics in one line of columns, or their names above it."""
  cells = [
    title if names else f'{result["metrics"][name]:.4f}'
    for name, title in TITLES.items()
    if name in result['metrics'] and not name.endswith(_DEVIATION)
  ]
  return ''.join(f'{cell:>{_COLUMN}}' for cell in cells)
