"""Objects in s3://, of Amazon S3 and servers that speak as it does."""

import contextlib
import functools
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
  one_line,
)
from pixeldit_jax.storage import patience
from pixeldit_jax.storage.stored_object import MARK, Data, StoredObject

_PAGE = 1000  # names in a listing
_SMALL = 1 << 20  # bytes that are sent at once
_PART = 64 << 20  # bytes that are sent at once, in memory
_ABSENT = ('404', 'NoSuchKey', 'NoSuchBucket', 'NotFound')
_REFUSED = ('412', 'PreconditionFailed', 'ConditionalRequestConflict', '409')
_DONE = 'NoSuchUpload'  # a first try came through, and its answer did not


def check(bucket: str) -> None:
  """Prepares to read and write; see `buckets.check`."""
  try:
    import boto3  # noqa: F401
    import fsspec
    import s3fs  # noqa: F401
    from botocore import exceptions
  except ImportError as error:
    raise MissingPackageError(
      f"s3://{bucket} needs s3fs and boto3: pip install 'pixeldit_jax[s3]'."
    ) from error
  # As in `google_cloud.check`.
  options = fsspec.config.conf.setdefault('s3', {})
  options['use_listings_cache'] = False
  _bound_s3fs(options)
  try:
    _ask('head_bucket', Bucket=bucket)
  except exceptions.ClientError as error:
    _refuse(bucket, error)
  except (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
  ) as error:
    raise UserError(
      f's3://{bucket}: no credentials are found. Run aws configure, set '
      'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role.'
    ) from error
  # Of the transport, or a token that could not be had.
  except Exception as error:
    raise UserError(
      f's3://{bucket} does not answer ({one_line(error)}): look at the '
      'network and at AWS_ENDPOINT_URL, and try again.'
    ) from error


def _refuse(bucket: str, error: Any) -> None:
  """Raises what an answer other than yes means for a user."""
  status = error.response['ResponseMetadata']['HTTPStatusCode']
  if status == 404:
    raise MissingFileError(
      f'there is no bucket s3://{bucket}: correct its name, or make it.'
    ) from error
  if status in (400, 401, 403):  # a request for a head has no reason in words
    raise UserError(
      f's3://{bucket} may not be used ({one_line(error)}): its credentials may '
      'have run out, or need s3:ListBucket, s3:GetObject, s3:PutObject and '
      's3:DeleteObject on it.'
    ) from error
  raise UserError(
    f's3://{bucket} does not answer ({one_line(error)}): try again later.'
  ) from error


@functools.cache
def _client(seconds: float = patience.ANSWER) -> Any:
  """One that asks once, and waits so long for bytes."""
  import boto3
  from botocore.config import Config

  config = Config(max_pool_connections=16, **_options(seconds))
  return boto3.client('s3', config=config)


def _options(seconds: float) -> dict[str, Any]:
  return dict(
    retries=dict(mode='standard', total_max_attempts=1),
    connect_timeout=patience.ANSWER,
    read_timeout=seconds,
  )


def _is_passing(error: BaseException) -> bool:
  """Whether an error may be gone at the next attempt."""
  import urllib3
  from botocore import exceptions

  # s3fs makes an OSError of what botocore raised.
  cause = error.__cause__ if isinstance(error, OSError) else None
  error = cause or error
  if isinstance(error, exceptions.ClientError):
    status = error.response['ResponseMetadata']['HTTPStatusCode']
    return status in patience.BUSY or _code(error) == 'RequestTimeout'
  return isinstance(
    error,
    (
      exceptions.HTTPClientError,
      exceptions.ConnectionError,
      exceptions.IncompleteReadError,
      urllib3.exceptions.HTTPError,
      ConnectionError,
      TimeoutError,
    ),
  )


def _again(work: Callable[[], Any]) -> Any:
  return patience.again('s3', _is_passing, work)


def _ask(name: str, seconds: Any = patience.ANSWER, **arguments: Any) -> Any:
  """The answer to one operation of S3; see `patience`."""
  return _again(lambda: getattr(_client(seconds), name)(**arguments))


def _bound_s3fs(options: dict[str, Any]) -> None:
  """Has `epath` wait as long as we do; s3fs would try for minutes."""
  import fsspec

  base: Any = fsspec.get_filesystem_class('s3')
  if hasattr(base, 'patient'):
    return

  class Patient(base):
    """Without its own retries, but for one of what was cut in reading."""

    patient, retries = True, 2

    async def _call_s3(self, *args: Any, **kwargs: Any) -> Any:
      call = super()._call_s3
      return await patience.again_async(
        's3', _is_passing, lambda: call(*args, **kwargs)
      )

  options['config_kwargs'] = _options(patience.ANSWER)
  fsspec.register_implementation('s3', Patient, clobber=True)


def objects(bucket: str, prefix: str) -> Iterator[StoredObject]:
  """Yields those whose names begin so, in their order."""
  more: dict[str, Any] = dict(MaxKeys=_PAGE)
  while True:
    page = _ask('list_objects_v2', Bucket=bucket, Prefix=prefix, **more)
    for item in page.get('Contents', ()):
      yield _stored(item['Key'], item['Size'], item, None)
    if not page.get('IsTruncated'):
      return
    more['ContinuationToken'] = page['NextContinuationToken']


def _stored(name: str, size: int, item: Any, mark: str | None) -> StoredObject:
  # The time is of whole seconds: two contents of one second differ as well.
  fraction = zlib.crc32(item['ETag'].encode()) % 10**9
  changed = int(item['LastModified'].timestamp()) * 10**9 + fraction
  return StoredObject(name, size, item['ETag'], changed, mark)


def find(bucket: str, name: str) -> StoredObject | None:
  """The object of this name."""
  from botocore.exceptions import ClientError

  try:
    head = _ask('head_object', Bucket=bucket, Key=name)
  except ClientError as error:
    if _code(error) in _ABSENT:
      return None
    raise
  mark = head.get('Metadata', {}).get(MARK, '')
  return _stored(name, head['ContentLength'], head, mark)


def _code(error: Any) -> str:
  return error.response['Error']['Code']


def read(bucket: str, name: str) -> tuple[bytes, str] | None:
  """Its content and version; None if it is absent."""
  from botocore.exceptions import ClientError

  def content() -> tuple[bytes, str]:
    found = _client().get_object(Bucket=bucket, Key=name)
    return found['Body'].read(), found['ETag']

  try:
    return _again(content)
  except ClientError as error:
    if _code(error) in _ABSENT:
      return None
    raise


def download(bucket: str, name: str, path: pathlib.Path) -> None:
  """Copies it to a disk; a connection that is cut is tried again."""
  from boto3.s3 import transfer

  # Of each part; the whole is tried again as well.
  config = transfer.TransferConfig(num_download_attempts=2)
  _again(
    lambda: _client().download_file(
      bucket, name, os.fspath(path), Config=config
    )
  )


def put(
  bucket: str, name: str, data: Data, mark: str, version: str | None
) -> str | None:
  """Writes it at once; see `buckets.put`. Returns its version, None if not."""
  from botocore.exceptions import ClientError

  there = dict(Bucket=bucket, Key=name)
  condition: dict[str, str] = {}
  if version is not None:
    condition = {'IfMatch': version} if version else {'IfNoneMatch': '*'}
  try:
    if isinstance(data, bytes):
      body: Any = data
    elif data.stat().st_size > _PART:
      return _put_parts(there, data, mark, condition)
    else:
      body = data.read_bytes()
    made = _ask(
      'put_object',
      patience.ANSWER if len(body) < _SMALL else patience.SLOW,
      **there,
      **condition,
      Body=body,
      Metadata={MARK: mark},
    )
  except ClientError as error:
    # What was to be replaced is no longer there, or another was quicker.
    if version is not None and _code(error) in (*_REFUSED, *_ABSENT, _DONE):
      return None
    raise
  return made['ETag']


def _put_parts(
  there: dict[str, str],
  path: pathlib.Path,
  mark: str,
  condition: dict[str, str],
) -> str:
  """Writes a large object, which appears when all parts are there."""
  made = _ask('create_multipart_upload', **there, Metadata={MARK: mark})
  upload = dict(there, UploadId=made['UploadId'])
  parts: list[dict[str, Any]] = []
  try:
    with open(path, 'rb') as file:
      while block := file.read(_PART):
        number = dict(PartNumber=len(parts) + 1)
        part = _ask(
          'upload_part', patience.SLOW, **upload, **number, Body=block
        )
        parts.append(dict(ETag=part['ETag'], **number))
    return _ask(
      'complete_multipart_upload',
      patience.SLOW,
      **upload,
      **condition,
      MultipartUpload=dict(Parts=parts),
    )['ETag']
  except BaseException:
    with contextlib.suppress(Exception):  # of the same bucket
      _ask('abort_multipart_upload', **upload)
    raise


def delete(bucket: str, name: str) -> None:
  """Removes it, if it is there."""
  _ask('delete_object', Bucket=bucket, Key=name)
