"""Statistics of reference images in a `.npz`: of other code, or our own.

Others hold mu and sigma, and perhaps mu_s and sigma_s. Our own hold features
too, and in `meta` the network, the counts and the checksums, as JSON.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.files import parse_json, replacing
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.frechet_distance import Gaussian
from pixeldit_jax.metrics.image_statistics import ImageStatistics
from pixeldit_jax.metrics.patch_borders import PixelDifferences

FORMAT = 1  # of our own files


def write_statistics(
  path: str | os.PathLike,
  statistics: ImageStatistics,
  network: FeatureNetwork,
  source: str,
) -> None:
  """Writes statistics to our own kind of file.

  Args:
    path: the `.npz` to write.
    statistics: of the reference images, from `collect`.
    network: the network that gave them.
    source: what images they are, for the reader.
  """
  arrays: dict[str, Any] = {
    'mu': statistics.pooled.mean,
    'sigma': statistics.pooled.covariance,
  }
  if statistics.spatial:
    arrays['mu_s'] = statistics.spatial.mean
    arrays['sigma_s'] = statistics.spatial.covariance
  if statistics.features is not None:
    arrays['features'] = statistics.features
  if statistics.differences:
    arrays['differences_down'] = statistics.differences.down
    arrays['differences_across'] = statistics.differences.across
  meta = {
    'format': FORMAT,
    'network': network.name,
    'network_checksum': network.checksum,
    'count': statistics.pooled.count,
    'source': source,
    'checksums': {n: _array_checksum(a) for n, a in arrays.items()},
  }
  arrays['meta'] = np.array(json.dumps(meta, sort_keys=True))
  with replacing(path) as temporary, open(temporary, 'wb') as file:
    np.savez(file, **arrays)


def array_names(path: pathlib.Path) -> set[str]:
  """Names of the arrays of a `.npz`.

  Raises:
    MissingFileError: there is no such file.
    UserError: it is no `.npz`.
  """
  if not path.is_file():
    raise MissingFileError(
      f'No reference at {path}: it is a .npz of images or statistics, a '
      'folder of images, or a data source such as folder:/path.'
    )
  if not zipfile.is_zipfile(path):
    raise UserError(
      f'{path} is not a complete .npz. Pickled statistics are not read, since '
      'a pickle can run code: save them by np.savez(path, mu=..., sigma=...).'
    )
  with zipfile.ZipFile(path) as archive:
    return {name.removesuffix('.npy') for name in archive.namelist()}


def _load(path: pathlib.Path, name: str) -> np.ndarray:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return arrays[name]
  except (zipfile.BadZipFile, zlib.error, ValueError, OSError) as error:
    raise UserError(f'{path} is damaged at {name}: {error}.') from error


def read_gaussians(
  path: pathlib.Path, network: FeatureNetwork, count: int | None = None
) -> ImageStatistics:
  """Reads means and covariances.

  Args:
    path: a `.npz`.
    network: whose features they are of.
    count: images that they are of, where that is known.

  Raises:
    UserError: they are missing, damaged, or of another feature network.
  """
  names = array_names(path)
  if not {'mu', 'sigma'} <= names:
    raise UserError(
      f'{path} holds {sorted(names)}; a reference has arr_0 (images) or mu and '
      'sigma (statistics).'
    )
  pooled_width, spatial_width, _ = network.widths
  pooled = _gaussian(path, ('mu', 'sigma'), pooled_width, count)
  spatial = None
  if {'mu_s', 'sigma_s'} <= names and spatial_width:
    spatial = _gaussian(path, ('mu_s', 'sigma_s'), spatial_width, count)
  return ImageStatistics(pooled, spatial)


def _gaussian(
  path: pathlib.Path, names: tuple[str, str], width: int, count: int | None
) -> Gaussian:
  mean_name, covariance_name = names
  mean, covariance = _load(path, mean_name), _load(path, covariance_name)
  if mean.shape != (width,) or covariance.shape != (width, width):
    raise UserError(
      f'{path}: {mean_name} is of {mean.shape} and {covariance_name} of '
      f'{covariance.shape}, but the feature network has {width} features. This '
      'is a reference of another feature network.'
    )
  for name, array in ((mean_name, mean), (covariance_name, covariance)):
    if array.dtype not in (np.float32, np.float64):
      raise UserError(f'{path}: {name} is {array.dtype}, expected floats.')
    if not np.isfinite(array).all():
      raise UserError(f'{path}: {name} has values that are not finite.')
  error = np.abs(covariance - covariance.T).max(initial=0)
  if error > 1e-4 * np.abs(covariance).max(initial=0):
    raise UserError(
      f'{path}: {covariance_name} is no covariance, it is not symmetric.'
    )
  return Gaussian(mean.astype(float), covariance.astype(float), count)


def read_own(path: pathlib.Path, network: FeatureNetwork) -> ImageStatistics:
  """Reads what `write_statistics` wrote.

  Raises:
    UserError: it is damaged, or of another format or feature network.
  """
  meta = parse_json(str(_load(path, 'meta')), path)
  if meta.get('format') != FORMAT:
    raise UserError(
      f'{path} is of format {meta.get("format")}, this program reads {FORMAT}. '
      'Write it again from its images.'
    )
  for part in ('network', 'network_checksum'):
    expected = network.name if part == 'network' else network.checksum
    if meta[part] != expected:
      raise UserError(
        f'{path} is a reference of another feature network: its {part} is '
        f'{meta[part]}, that of the samples {expected}.'
      )
  for name, checksum in meta['checksums'].items():
    if _array_checksum(_load(path, name)) != checksum:
      raise UserError(f'{path} is damaged: {name} is not what was written.')
  statistics = read_gaussians(path, network, meta['count'])
  sides = ('differences_down', 'differences_across')
  if sides[0] in meta['checksums']:
    down, across = (_load(path, side) for side in sides)
    differences = PixelDifferences(down, across, meta['count'])
    statistics = dataclasses.replace(statistics, differences=differences)
  if 'features' not in meta['checksums']:
    return statistics
  return dataclasses.replace(statistics, features=_load(path, 'features'))


def _array_checksum(array: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
