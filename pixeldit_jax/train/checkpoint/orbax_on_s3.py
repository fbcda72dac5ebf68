"""Has Orbax keep checkpoints in s3:// as it does in gs://.

Orbax knows gs:// alone: of s3:// it would make a local folder of that name.
Five of its functions decide what a path is; all else of a checkpoint in a
bucket (no renames, `commit_success.txt` last) is the same for both.
"""

import functools
import os
import posixpath
from typing import Any
from urllib.parse import urlsplit

from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import buckets

SCHEME = 's3://'
_NAMES = {
  'gcs_utils': ('is_gcs_path', 'rmtree', 'get_kvstore_for_gcs'),
  'tensorstore_utils': ('_use_gcs_driver', '_normalize_path'),
}


@functools.cache
def enable() -> None:
  """Replaces the functions; called before a checkpoint is read or written.

  Raises:
    UserError: this version of Orbax has others.
  """
  import orbax.checkpoint
  from orbax.checkpoint._src.path import gcs_utils
  from orbax.checkpoint._src.serialization import tensorstore_utils

  modules: dict[str, Any] = {
    'gcs_utils': gcs_utils,
    'tensorstore_utils': tensorstore_utils,
  }
  absent = [
    f'{module}.{name}'
    for module, names in _NAMES.items()
    for name in names
    if not callable(getattr(modules[module], name, None))
  ]
  if absent:
    raise UserError(
      f'orbax-checkpoint {orbax.checkpoint.__version__} has no '
      f'{", ".join(absent)}, which checkpoints in s3:// need: install that of '
      'launch/constraints.txt, or keep the workdir on a disk or in gs://.'
    )
  remove, kvstore = gcs_utils.rmtree, gcs_utils.get_kvstore_for_gcs

  def rmtree(path: Any, *, missing_ok: bool = False) -> None:
    if not _is_s3(path):
      remove(path, missing_ok=missing_ok)
    elif buckets.below(path):
      buckets.remove_below(path)
    elif not missing_ok:
      raise FileNotFoundError(str(path))

  gcs_utils.is_gcs_path = lambda path: _is_bucket(path.as_posix())
  gcs_utils.rmtree = rmtree
  gcs_utils.get_kvstore_for_gcs = lambda path: (
    _kvstore(path) if _is_s3(path) else kvstore(path)
  )
  tensorstore_utils._use_gcs_driver = _is_bucket
  tensorstore_utils._normalize_path = _normal


def _is_s3(path: Any) -> bool:
  return str(path).startswith(SCHEME)


def _is_bucket(path: str) -> bool:
  return path.startswith(('gs://', SCHEME))


def _normal(path: str) -> str:
  """Without slashes that mean nothing; a scheme keeps its two."""
  scheme, mark, rest = path.rpartition('://')
  return scheme + mark + posixpath.normpath(rest)


def _kvstore(path: str) -> dict[str, Any]:
  """How TensorStore opens it; of the variables it knows the keys alone."""
  import boto3

  place = urlsplit(path)
  spec = dict(driver='s3', bucket=place.netloc, path=place.path.lstrip('/'))
  endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get(
    'AWS_ENDPOINT_URL'
  )
  if endpoint:
    region = boto3.Session().region_name or 'us-east-1'
    spec |= dict(endpoint=endpoint, aws_region=region)
  return spec
