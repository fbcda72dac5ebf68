"""From the statistics of samples and a reference to a result worth trusting.

Definitions are the ADM suite's (arXiv 2105.05233) and KID's; the result says
what was measured on what, and why a metric is missing.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np

from pixeldit_jax.eval.features import INCEPTION, FeatureNetwork
from pixeldit_jax.eval.image_statistics import ImageStatistics
from pixeldit_jax.eval.kernel_distance import kernel_distance
from pixeldit_jax.eval.precision_recall import precision_recall
from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.eval.statistics import frechet_distance

_NAMES = {
  'fid': 'FID',
  'frechet_distance': 'Frechet',
  'sfid': 'sFID',
  'inception_score': 'IS',
  'precision': 'precision',
  'recall': 'recall',
  'kid': 'KID',
}
_NO_FEATURES = (
  'the reference has statistics alone; precision, recall and KID need its '
  'images, or a reference written by this program'
)


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
  metrics, missing, warnings, ranks = {}, {}, [], {}
  theirs = reference.statistics
  # Only the Inception network's distance may be called FID.
  frechet = 'fid' if network.name == INCEPTION else 'frechet_distance'
  for name, ours, other in (
    (frechet, samples.pooled, theirs.pooled),
    ('sfid', samples.spatial, theirs.spatial),
  ):
    if ours is None or other is None:
      side = 'feature network' if ours is None else 'reference'
      missing[name] = f'the {side} has no spatial features'
      continue
    distance = frechet_distance(ours, other)
    metrics[name] = distance.value
    ranks[name] = dict(
      zip(
        ('samples', 'reference', 'features'), (*distance.ranks, distance.width)
      )
    )
    warnings += _rank_warnings(name, (ours, other), distance)
  if samples.inception_score:
    mean, deviation = samples.inception_score
    metrics['inception_score'] = mean
    metrics['inception_score_std'] = deviation
  else:
    missing['inception_score'] = 'the feature network has no logits'
  if samples.features is None or theirs.features is None:
    reason = _NO_FEATURES if theirs.features is None else 'no features kept'
    missing |= dict.fromkeys(('precision', 'recall', 'kid'), reason)
  else:
    _compare_features(samples.features, theirs.features, metrics, missing)
  return {
    'metrics': metrics | (more or {}),
    'missing': missing,
    'warnings': warnings,
    'settings': settings,
    'samples': {'count': samples.pooled.count},
    'reference': {
      'path': reference.path,
      'kind': reference.kind,
      'checksum': reference.checksum,
      'count': theirs.pooled.count,
      'features': 0 if theirs.features is None else len(theirs.features),
    },
    'network': {'name': network.name, 'checksum': network.checksum},
    'ranks': ranks,
    'versions': {
      'jax': jax.__version__,
      'numpy': np.__version__,
      'python': sys.version.split()[0],
      'device': jax.devices()[0].device_kind,
    },
  }


def _compare_features(ours, theirs, metrics, missing):
  """Adds precision, recall and KID, or the reason why they are missing."""
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


def _rank_warnings(name, gaussians, distance) -> list[str]:
  """Says where too few images make a covariance degenerate."""
  result = []
  sides = zip(('samples', 'reference images'), gaussians, distance.ranks)
  for side, gaussian, rank in sides:
    if gaussian.count is not None and gaussian.count <= distance.width:
      result.append(
        f'{_NAMES[name]}: the covariance of {gaussian.count:,} {side} has rank '
        f'{rank:,} of {distance.width:,}. The number is larger than with more '
        f'images; compare it only with others of the same count.'
      )
  return result


def write_result(path: str | os.PathLike, result: dict):
  """Writes a result as JSON, beside and renamed."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=2, allow_nan=False) + '\n'
  beside = path.with_name(f'{path.name}.tmp')
  beside.write_text(text)
  os.replace(beside, path)


def table(result: dict) -> str:
  """A few lines to print: metrics, then what is missing and what to mind."""
  metrics = result['metrics']
  lines = []
  for name, value in metrics.items():
    if name.endswith('_std'):
      continue
    deviation = metrics.get(f'{name}_std')
    spread = '' if deviation is None else f' +- {deviation:.4g}'
    lines.append(f'{_NAMES.get(name, name):<16}{value:>10.4f}{spread}')
  for name, reason in result['missing'].items():
    lines.append(f'{_NAMES[name]:<16}{"-":>10}  {reason}')
  count, reference = result['samples']['count'], result['reference']
  lines.append(f'{count:,} samples against {reference["path"]}')
  return '\n'.join(lines + [f'warning: {w}' for w in result['warnings']])
