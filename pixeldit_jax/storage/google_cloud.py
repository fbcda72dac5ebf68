"""Objects in gs://, of Google Cloud Storage."""

import functools
import http.client
import logging
import os
import pathlib
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
  _bound_gcsfs()
  try:
    _again(lambda once: _client().get_bucket(bucket, **once))
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


def _is_passing(error: Exception) -> bool:
  """Whether an error may be gone at the next attempt."""
  import requests
  import urllib3
  from google.auth.exceptions import TransportError
  from google.cloud.storage.exceptions import DataCorruption

  transport = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TransportError,
    DataCorruption,  # what came was cut
  )
  return (
    isinstance(error, transport)
    or getattr(error, 'code', None) in patience.BUSY
  )


def _again(work: Callable[[dict[str, Any]], Any]) -> Any:
  """What `work` returns, given the options of one attempt; see `patience`."""
  once = dict(timeout=patience.ANSWER, retry=None)
  return patience.again('gs', _is_passing, lambda: work(once))


def _bound_gcsfs() -> None:
  """Has `epath` wait as long as we do; gcsfs would try for minutes."""
  import aiohttp
  import fsspec
  from gcsfs import retry

  base: Any = fsspec.get_filesystem_class('gs')
  one: Any = getattr(base._request, '__wrapped__', None)
  if hasattr(base, 'patient') or one is None:  # another version of gcsfs
    return

  class Patient(base):
    """With its own retries taken off."""

    patient = True

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
      return await patience.again_async(
        'gs', retry.is_retriable, lambda: one(self, *args, **kwargs)
      )

    # The base says so where an answer is refused or lost, too: a run would
    # begin anew over its checkpoints. findings/gcsfs_refused_is_no_folder.sh
    async def _isdir(self, path: str) -> bool:
      try:
        return (await self._info(path))['type'] == 'directory'
      except FileNotFoundError:
        return False

  answer = aiohttp.ClientTimeout(
    sock_connect=patience.ANSWER, sock_read=patience.ANSWER
  )
  for protocol in ('gs', 'gcs'):
    fsspec.config.conf[protocol]['requests_timeout'] = answer
    fsspec.register_implementation(protocol, Patient, clobber=True)


def objects(bucket: str, prefix: str) -> Iterator[StoredObject]:
  """Yields those whose names begin so, in their order."""
  token: str | None = None

  def page(once: dict[str, Any]) -> tuple[list[Any], str | None]:
    listing = _client().list_blobs(
      bucket, prefix=prefix, page_token=token, page_size=_PAGE, **once
    )
    return list(next(listing.pages, ())), listing.next_page_token

  while True:
    blobs, token = _again(page)
    yield from map(_stored, blobs)
    if not token:
      return


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
  where = _client().bucket(bucket)
  blob = _again(lambda once: where.get_blob(name, **once))
  return blob and _stored(blob)


def read(bucket: str, name: str) -> tuple[bytes, str] | None:
  """Its content and version; None if it is absent."""
  from google.cloud import exceptions

  blob = _client().bucket(bucket).blob(name)
  try:
    data = _again(lambda once: blob.download_as_bytes(**once))
    return data, str(blob.generation)
  except exceptions.NotFound:
    return None


def download(bucket: str, name: str, path: pathlib.Path) -> None:
  """Copies it to a disk, and compares checksums."""
  blob = _client().bucket(bucket).blob(name)
  _again(lambda once: blob.download_to_filename(os.fspath(path), **once))


def put(
  bucket: str, name: str, data: Data, mark: str, version: str | None
) -> str | None:
  """Writes it at once; see `buckets.put`. Returns its version, None if not."""
  from google.cloud import exceptions

  blob = _client().bucket(bucket).blob(name)
  blob.metadata = {MARK: mark}
  condition = None if version is None else int(version or 0)

  def send(once: dict[str, Any]) -> None:
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    options = once | dict(if_generation_match=condition)
    if size > _SMALL:
      options['timeout'] = patience.ANSWER, patience.SLOW
    if isinstance(data, bytes):
      blob.upload_from_string(data, **options)
    else:
      blob.upload_from_filename(os.fspath(data), **options)

  try:
    _again(send)
  except exceptions.PreconditionFailed:
    return None
  return str(blob.generation)


def delete(bucket: str, name: str) -> None:
  """Removes it, if it is there."""
  from google.cloud import exceptions

  blob = _client().bucket(bucket).blob(name)
  try:
    _again(lambda once: blob.delete(**once))
  except exceptions.NotFound:
    pass
