"""Has Orbax keep checkpoints in s3:// as it does in gs://, and give up in time.

Orbax knows gs:// alone: of s3:// it would make a local folder of that name.
Five of its functions decide what a path is; all else of a checkpoint in a
bucket (no renames, `commit_success.txt` last) is the same for both.
TensorStore, which writes the arrays, would try for minutes, or wait for ever.
"""

import functools
import logging
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


# How often TensorStore asks again, after pauses that double; see `patience`.
_RETRIES = dict(max_retries=3, initial_delay='0.5s', max_delay='4s')
_VARIABLES = dict(
  TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS='5',
  # Less than a byte a second. On a slow line the end of what was sent is on
  # its way for a while.
  TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS='10',
  TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES='1',
)


@functools.cache
def enable(scheme: str) -> None:
  """Replaces the functions; called before a checkpoint is read or written.

  Args:
    scheme: of the bucket; gs:// works without.

  Raises:
    UserError: this version of Orbax has others.
  """
  for name, value in _VARIABLES.items():
    os.environ.setdefault(name, value)
  import orbax.checkpoint
  from orbax.checkpoint._src.path import gcs_utils
  from orbax.checkpoint._src.serialization import tensorstore_utils

  logging.getLogger('absl').addFilter(_is_no_refusal)
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
  if absent and scheme == 'gs':
    return
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
    _kvstore(path) if _is_s3(path) else _bounded(kvstore(path))
  )
  tensorstore_utils._use_gcs_driver = _is_bucket
  tensorstore_utils._normalize_path = _normal


def _is_no_refusal(record: logging.LogRecord) -> bool:
  """Whether Orbax is to log this.

  Its threads log what a bucket refused, with a traceback for each, and raise it
  as well.
  """
  error = record.exc_info and record.exc_info[1]
  return not (error and buckets.refusal(error))


def _is_s3(path: Any) -> bool:
  return str(path).startswith(SCHEME)


def _is_bucket(path: str) -> bool:
  return path.startswith(('gs://', SCHEME))


def _bounded(spec: dict[str, Any]) -> dict[str, Any]:
  if spec['driver'] != 'gcs':
    return spec
  return dict(spec, gcs_request_retries=_RETRIES)


def _normal(path: str) -> str:
  """Without slashes that mean nothing; a scheme keeps its two."""
  scheme, mark, rest = path.rpartition('://')
  return scheme + mark + posixpath.normpath(rest)


def _kvstore(path: str) -> dict[str, Any]:
  """How TensorStore opens it; of the variables it knows the keys alone."""
  import boto3

  place = urlsplit(path)
  spec = dict(
    driver='s3',
    bucket=place.netloc,
    path=place.path.lstrip('/'),
    s3_request_retries=_RETRIES,
  )
  endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get(
    'AWS_ENDPOINT_URL'
  )
  if endpoint:
    region = boto3.Session().region_name or 'us-east-1'
    spec |= dict(endpoint=endpoint, aws_region=region)
  return spec
