"""What samples are compared with: ADM, EDM and JiT references, or our own.

| kind   | holds                                     | gives                   |
|--------|-------------------------------------------|-------------------------|
| images | `arr_0` of a `.npz`, or a folder          | all metrics             |
| source | digits, folder:, shards: ..., as training | all metrics, features   |
|        | crops them                                | of 10,000 images        |
| ADM    | `arr_0` and mu, sigma, mu_s, sigma_s of a | all metrics, FID from   |
|        | larger set                                | the larger set          |
| EDM,   | mu, sigma                                 | FID                     |
| JiT    |                                           |                         |
| own    | mu, sigma, mu_s, sigma_s, features, and   | all metrics             |
|        | meta: network, counts, checksums          |                         |
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
import zlib

import numpy as np

from pixeldit_jax.data.sources.open_source import is_source
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.eval.source_images import SourceImages
from pixeldit_jax.images import image_sets
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.metrics.frechet_distance import Gaussian
from pixeldit_jax.metrics.image_statistics import ImageStatistics, collect

FORMAT = 1  # of our own files
KEPT_FEATURES = 10_000  # as many images as ADM's batches hold
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Reference:
  """Statistics of a reference, and what a result must say of it.

  Attributes:
    statistics: of the reference images.
    path: where it was read.
    kind: 'images', 'source', 'adm', 'statistics' or 'own'.
    checksum: SHA-256 of the file, of the folder's names and contents, or of
      the pixels of a source.
  """

  statistics: ImageStatistics
  path: str
  kind: str
  checksum: str


def read_reference(
  path: str | os.PathLike,
  network: FeatureNetwork,
  progress=None,
  *,
  resolution: int | None = None,
  keep: int | None = None,
) -> Reference:
  """Reads a reference of any kind; images go through the network.

  Args:
    path: a `.npz`, a folder of images, or a data source.
    network: the network that also sees the samples.
    progress: f(count) gives a function that is told how many are done.
    resolution: side of the images that a data source is cropped to.
    keep: images whose features are kept; all by default, of a source 10,000.

  Raises:
    FileNotFoundError: nothing there.
    UserError: not a reference, damaged, or of another feature network.
  """
  if is_source(os.fspath(path)):
    images = SourceImages(os.fspath(path), resolution)
    keep = KEPT_FEATURES if keep is None else keep
    statistics = _of_images(images, network, progress, keep)
    return Reference(statistics, os.fspath(path), 'source', images.checksum())
  path = pathlib.Path(path)
  names = _members(path)
  if names is not None and 'meta' in names:
    statistics, kind = _read_own(path, network), 'own'
  elif names is not None and 'arr_0' not in names:
    statistics, kind = _read_gaussians(path, names, network), 'statistics'
  else:
    images = image_sets.open_images(path)
    statistics, kind = _of_images(images, network, progress, keep), 'images'
    if names is not None and 'mu' in names:
      larger = _read_gaussians(path, names, network)
      spatial = larger.spatial or statistics.spatial
      statistics = dataclasses.replace(
        statistics, pooled=larger.pooled, spatial=spatial
      )
      kind = 'adm'
  return Reference(statistics, os.fspath(path), kind, _checksum(path))


def write_reference(
  path: str | os.PathLike,
  statistics: ImageStatistics,
  network: FeatureNetwork,
  source: str,
):
  """Writes statistics to our own kind of file, beside and renamed.

  Args:
    path: the `.npz` to write.
    statistics: of the reference images, from `collect`.
    network: the network that gave them.
    source: what images they are, for the reader.
  """
  arrays = {
    'mu': statistics.pooled.mean,
    'sigma': statistics.pooled.covariance,
  }
  if statistics.spatial:
    arrays['mu_s'] = statistics.spatial.mean
    arrays['sigma_s'] = statistics.spatial.covariance
  if statistics.features is not None:
    arrays['features'] = statistics.features
  meta = {
    'format': FORMAT,
    'network': network.name,
    'network_checksum': network.checksum,
    'count': statistics.pooled.count,
    'source': source,
    'checksums': {n: _array_checksum(a) for n, a in arrays.items()},
  }
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'{path.name}.tmp')
  with open(beside, 'wb') as file:
    np.savez(file, meta=np.array(json.dumps(meta, sort_keys=True)), **arrays)
  os.replace(beside, path)


def _members(path: pathlib.Path) -> set[str] | None:
  """Names of the arrays of a `.npz`; None for a folder.

  Raises:
    FileNotFoundError, ValueError: nothing there, or not a `.npz`.
  """
  if path.is_dir():
    return None
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


def _of_images(images, network, progress, keep) -> ImageStatistics:
  report = progress and progress(images.count)
  batches = images.batches(_BATCH)
  return collect(batches, network, images.count, keep=keep, progress=report)


def _read_gaussians(path, names, network, count=None) -> ImageStatistics:
  if not {'mu', 'sigma'} <= names:
    raise UserError(
      f'{path} holds {sorted(names)}; a reference has arr_0 (images) or mu and '
      'sigma (statistics).'
    )
  pooled = _gaussian(path, 'mu', 'sigma', network.widths[0], network, count)
  spatial = None
  if {'mu_s', 'sigma_s'} <= names and network.widths[1]:
    width = network.widths[1]
    spatial = _gaussian(path, 'mu_s', 'sigma_s', width, network, count)
  return ImageStatistics(pooled, spatial)


def _gaussian(path, mean_name, covariance_name, width, network, count):
  mean, covariance = _load(path, mean_name), _load(path, covariance_name)
  if mean.shape != (width,) or covariance.shape != (width, width):
    raise UserError(
      f'{path}: {mean_name} is of {mean.shape} and {covariance_name} of '
      f'{covariance.shape}, but {network.name} has {width} features. This is a '
      'reference of another feature network.'
    )
  for name, array in ((mean_name, mean), (covariance_name, covariance)):
    if array.dtype not in (np.float32, np.float64):
      raise UserError(f'{path}: {name} is {array.dtype}, expected floats.')
    if not np.isfinite(array).all():
      raise UserError(f'{path}: {name} has values that are not finite.')
  error = np.abs(covariance - covariance.T).max()
  if error > 1e-4 * np.abs(covariance).max():
    raise UserError(
      f'{path}: {covariance_name} is no covariance, it is not symmetric.'
    )
  return Gaussian(mean.astype(float), covariance.astype(float), count)


def _read_own(path: pathlib.Path, network: FeatureNetwork) -> ImageStatistics:
  meta = json.loads(str(_load(path, 'meta')))
  if meta.get('format') != FORMAT:
    raise UserError(
      f'{path} is of format {meta.get("format")}, this program reads {FORMAT}. '
      'Write it again from its images.'
    )
  for part in ('network', 'network_checksum'):
    ours = network.name if part == 'network' else network.checksum
    if meta[part] != ours:
      raise UserError(
        f'{path} is a reference of another feature network: its {part} is '
        f'{meta[part]}, that of the samples {ours}.'
      )
  for name, checksum in meta['checksums'].items():
    if _array_checksum(_load(path, name)) != checksum:
      raise UserError(f'{path} is damaged: {name} is not what was written.')
  names = set(meta['checksums'])
  statistics = _read_gaussians(path, names, network, meta['count'])
  if 'features' not in names:
    return statistics
  return dataclasses.replace(statistics, features=_load(path, 'features'))


def _checksum(path: pathlib.Path) -> str:
  if path.is_dir():
    return image_sets.FolderImages(path).checksum()
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _array_checksum(array: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
