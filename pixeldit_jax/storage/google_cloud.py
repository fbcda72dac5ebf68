"""Objects in gs://, of Google Cloud Storage."""

import functools
import logging
import os
import pathlib
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


def check(bucket: str) -> None:
  """Prepares to read and write; see `buckets.check`."""
  try:
    import fsspec
    import gcsfs  # noqa: F401
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import exceptions
  except ImportError as error:
    raise MissingPackageError(
      f"gs://{bucket} needs gcsfs: pip install 'pixeldit_jax[gcs]'."
    ) from error
  # Else a listing is kept for ever: a second look would not see what another
  # process wrote, and a file that grew would be read cut at its old length.
  for protocol in ('gs', 'gcs'):
    options = fsspec.config.conf.setdefault(protocol, {})
    options['use_listings_cache'] = False
  # What it logs with a traceback it raises as well.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
  try:
    _client().get_bucket(bucket, timeout=SECONDS, retry=None)
  except exceptions.NotFound as error:
    raise MissingFileError(
      f'there is no bucket gs://{bucket}: correct its name, or make it.'
    ) from error
  except (exceptions.Forbidden, exceptions.Unauthorized) as error:
    raise UserError(
      f'gs://{bucket} may not be used ({one_line(error)}): grant this account '
      'the roles Storage Object User and Storage Legacy Bucket Reader on it.'
    ) from error
  except DefaultCredentialsError as error:
    raise UserError(
      f'gs://{bucket}: no credentials are found. Run gcloud auth '
      'application-default login, or give the machine a service account.'
    ) from error
  # Of the transport (OSError), the server, or a token that could not be had.
  except Exception as error:
    raise UserError(
      f'gs://{bucket} does not answer ({one_line(error)}): look at the '
      'network, and try again.'
    ) from error


@functools.cache
def _client() -> Any:
  from google.cloud.storage import Client

  # A project is only of those who make buckets, but the client wants one.
  project = os.environ.get('GOOGLE_CLOUD_PROJECT', 'none')
  return Client(project=project)


def objects(bucket: str, prefix: str) -> Iterator[StoredObject]:
  """Yields those whose names begin so, in their order."""
  for blob in _client().list_blobs(bucket, prefix=prefix):
    yield _stored(blob)


def _stored(blob: Any) -> StoredObject:
  return StoredObject(
    blob.name,
    blob.size,
    str(blob.generation),
    blob.generation * 1000,  # it counts microseconds
    (blob.metadata or {}).get(MARK, ''),
  )


def find(bucket: str, name: str) -> StoredObject | None:
  """The object of this name."""
  blob = _client().bucket(bucket).get_blob(name)
  return blob and _stored(blob)


def read(bucket: str, name: str) -> tuple[bytes, str] | None:
  """Its content and version; None if it is absent."""
  from google.cloud import exceptions

  blob = _client().bucket(bucket).blob(name)
  try:
    return blob.download_as_bytes(), str(blob.generation)
  except exceptions.NotFound:
    return None


def download(bucket: str, name: str, path: pathlib.Path) -> None:
  """Copies it to a disk, and compares checksums."""
  _client().bucket(bucket).blob(name).download_to_filename(os.fspath(path))


def put(
  bucket: str, name: str, data: Data, mark: str, version: str | None
) -> str | None:
  """Writes it at once; see `buckets.put`. Returns its version, None if not."""
  from google.cloud import exceptions

  blob = _client().bucket(bucket).blob(name)
  blob.metadata = {MARK: mark}
  options = dict(
    if_generation_match=None if version is None else int(version or 0)
  )
  try:
    if isinstance(data, bytes):
      blob.upload_from_string(data, **options)
    else:
      blob.upload_from_filename(os.fspath(data), **options)
  except exceptions.PreconditionFailed:
    return None
  return str(blob.generation)


def delete(bucket: str, name: str) -> None:
  """Removes it, if it is there."""
  from google.cloud import exceptions

  try:
    _client().bucket(bucket).blob(name).delete()
  except exceptions.NotFound:
    pass
