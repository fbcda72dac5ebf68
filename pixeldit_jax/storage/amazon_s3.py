"""Objects in s3://, of Amazon S3 and servers that speak as it does."""

import functools
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
  one_line,
)
from pixeldit_jax.storage.stored_object import MARK, Data, StoredObject

SECONDS = 5  # to wait for the first answer
_PART = 64 << 20  # bytes that are sent at once, in memory
_ABSENT = ('404', 'NoSuchKey', 'NoSuchBucket', 'NotFound')
_REFUSED = ('412', 'PreconditionFailed', 'ConditionalRequestConflict', '409')


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
  try:
    _client(patient=False).head_bucket(Bucket=bucket)
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
def _client(patient: bool = True) -> Any:
  import boto3
  from botocore.config import Config

  tries = dict(mode='standard', max_attempts=8 if patient else 1)
  return boto3.client(
    's3',
    config=Config(
      retries=tries,
      connect_timeout=SECONDS,
      read_timeout=60 if patient else SECONDS,
      max_pool_connections=16,
    ),
  )


def objects(bucket: str, prefix: str) -> Iterator[StoredObject]:
  """Yields those whose names begin so, in their order."""
  pages = _client().get_paginator('list_objects_v2')
  for page in pages.paginate(Bucket=bucket, Prefix=prefix):
    for item in page.get('Contents', ()):
      yield _stored(item['Key'], item['Size'], item, None)


def _stored(name: str, size: int, item: Any, mark: str | None) -> StoredObject:
  # The time is of whole seconds: two contents of one second differ as well.
  fraction = zlib.crc32(item['ETag'].encode()) % 10**9
  changed = int(item['LastModified'].timestamp()) * 10**9 + fraction
  return StoredObject(name, size, item['ETag'], changed, mark)


def find(bucket: str, name: str) -> StoredObject | None:
  """The object of this name."""
  from botocore.exceptions import ClientError

  try:
    head = _client().head_object(Bucket=bucket, Key=name)
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

  try:
    found = _client().get_object(Bucket=bucket, Key=name)
  except ClientError as error:
    if _code(error) in _ABSENT:
      return None
    raise
  return found['Body'].read(), found['ETag']


def download(bucket: str, name: str, path: pathlib.Path) -> None:
  """Copies it to a disk; a connection that is cut is tried again."""
  _client().download_file(bucket, name, os.fspath(path))


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
    made = _client().put_object(
      **there, **condition, Body=body, Metadata={MARK: mark}
    )
  except ClientError as error:
    # What was to be replaced is no longer there, or another was quicker.
    if version is not None and _code(error) in (*_REFUSED, *_ABSENT):
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
  client = _client()
  made = client.create_multipart_upload(**there, Metadata={MARK: mark})
  upload = dict(there, UploadId=made['UploadId'])
  parts: list[dict[str, Any]] = []
  try:
    with open(path, 'rb') as file:
      while block := file.read(_PART):
        number = len(parts) + 1
        part = client.upload_part(**upload, PartNumber=number, Body=block)
        parts.append(dict(ETag=part['ETag'], PartNumber=number))
    return client.complete_multipart_upload(
      **upload, **condition, MultipartUpload=dict(Parts=parts)
    )['ETag']
  except BaseException:
    client.abort_multipart_upload(**upload)
    raise


def delete(bucket: str, name: str) -> None:
  """Removes it, if it is there."""
  _client().delete_object(Bucket=bucket, Key=name)
