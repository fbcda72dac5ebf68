"""Buckets of Google Cloud: what `etils.epath` does not do in gs://.

`epath` reads and writes gs:// as a disk, by way of gcsfs, after `check`. One
object is written at once, so it needs no temporary name. Data are copied to a
disk before they are read (`fetch`). An `Object` is replaced only by who knows
its generation, which makes a lock of it.
"""

import concurrent.futures
import fnmatch
import functools
import os
import pathlib
import re
from typing import Any

from pixeldit_jax import files
from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  OutputError,
  UserError,
)

SCHEME = 'gs://'
_SECONDS = 5  # to wait for the first answer
_THREADS = 16  # that download


def check(path: str | os.PathLike) -> None:
  """Prepares to read and write in a bucket; nothing for a path on a disk.

  Raises:
    MissingPackageError: a package for buckets is not installed.
    UserError: no such bucket, no permission, no credentials, or no answer; or
      a place of another kind.
  """
  text = os.fspath(path)
  if text.startswith(SCHEME):
    _check_bucket(_split(text)[0])
  elif files.is_remote(text):
    raise UserError(
      f'{text}: {text.partition("://")[0]}:// is not supported; give a path on '
      f'a disk, or {SCHEME}bucket/name.'
    )


@functools.cache
def _check_bucket(bucket: str) -> None:
  try:
    import fsspec
    import gcsfs  # noqa: F401
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import exceptions
  except ImportError as error:
    raise MissingPackageError(
      f"{SCHEME}{bucket} needs gcsfs: pip install 'pixeldit_jax[gcs]'."
    ) from error
  # Else a listing is kept for ever: a second look would not see what another
  # process wrote, and a file that grew would be read cut at its old length.
  for protocol in ('gs', 'gcs'):
    options = fsspec.config.conf.setdefault(protocol, {})
    options['use_listings_cache'] = False
  # An installed TensorFlow would serve gs:// in place of gcsfs.
  os.environ.setdefault('EPATH_USE_TF', '0')
  try:
    _client().get_bucket(bucket, timeout=_SECONDS, retry=None)
  except exceptions.NotFound as error:
    raise MissingFileError(
      f'there is no bucket {SCHEME}{bucket}: correct its name, or make it.'
    ) from error
  except (exceptions.Forbidden, exceptions.Unauthorized) as error:
    raise UserError(
      f'{SCHEME}{bucket} may not be used ({_short(error)}): grant this account '
      'the roles Storage Object User and Storage Legacy Bucket Reader on it.'
    ) from error
  except DefaultCredentialsError as error:
    raise UserError(
      f'{SCHEME}{bucket}: no credentials are found. Run gcloud auth '
      'application-default login, or give the machine a service account.'
    ) from error
  # Of the transport (OSError), the server, or a token that could not be had.
  except Exception as error:
    raise UserError(
      f'{SCHEME}{bucket} does not answer ({_short(error)}): look at the '
      'network, and try again.'
    ) from error


def _short(error: Exception) -> str:
  return ' '.join(str(error).split())[:300]


@functools.cache
def _client() -> Any:
  from google.cloud.storage import Client

  # A project is only of those who make buckets, but the client wants one.
  project = os.environ.get('GOOGLE_CLOUD_PROJECT', 'none')
  return Client(project=project)


def _split(path: str) -> tuple[str, str]:
  """The bucket and the name of 'gs://bucket/name'."""
  bucket, _, name = path.removeprefix(SCHEME).partition('/')
  if not bucket:
    raise UserError(f'{path}: expected {SCHEME}bucket/name.')
  return bucket, name.strip('/')


def fetch(path: str) -> pathlib.Path:
  """Copies a file, a folder, or the files of a glob to a disk; returns it.

  What was copied before, and is the same in the bucket, stays: below
  `files.cache_folder('gs')`, which can be deleted while nobody reads there.

  Raises:
    MissingFileError: there is nothing of this name.
    UserError: see `check`.
  """
  check(path)
  bucket, name = _split(path)
  cache = files.cache_folder('gs') / bucket
  # Letters before the first that stands for others, up to a folder.
  plain = re.match(r'[^*?\[]*', name)
  assert plain is not None
  glob = plain[0] != name
  prefix = plain[0].rpartition('/')[0] if glob else name

  def is_named(other: str) -> bool:
    if glob:
      return fnmatch.fnmatchcase(other, name)
    return other == name or other.startswith(f'{name}/' if name else '')

  found = {
    blob.name: blob
    for blob in _client().list_blobs(bucket, prefix=prefix)
    if is_named(blob.name) and files.is_inside(blob.name)
    if not blob.name.endswith('/')
  }
  if not found:
    raise MissingFileError(f'there is no {path}.')

  def copy(blob: Any) -> None:
    target = cache / blob.name
    changed = blob.generation * 1000  # it counts microseconds
    if target.is_file():
      there = target.stat()
      if (there.st_size, there.st_mtime_ns) == (blob.size, changed):
        return
    with files.replacing(target) as made:
      blob.download_to_filename(os.fspath(made))  # compares checksums
      os.utime(made, ns=(changed, changed))

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(copy, found.values()))
  for kept in (cache / prefix).rglob('*'):
    below = kept.relative_to(cache).as_posix()
    if kept.name.startswith(files.TEMPORARY) or below in found:
      continue
    if kept.is_file() and is_named(below):
      kept.unlink(missing_ok=True)  # it is no longer in the bucket
  return cache / name


class Object:
  """A small object that is replaced only by who has seen its last content."""

  def __init__(self, path: str):
    """Reads it.

    Args:
      path: in a bucket that was checked.
    """
    bucket, name = _split(path)
    self._blob = _client().bucket(bucket).blob(name)
    self.text = self.read()

  def read(self) -> str:
    """Its content now, which may then be replaced; '' if it is absent."""
    from google.cloud import exceptions

    try:
      self.text = self._blob.download_as_bytes().decode()
    except exceptions.NotFound:
      self.text, self._generation = '', 0
    else:
      self._generation = self._blob.generation
    return self.text

  def replace(self, text: str) -> bool:
    """Writes it if nobody else has since it was read; whether it did.

    Args:
      text: one that nobody else writes, and that differs each time.

    Raises:
      OutputError: the bucket does not answer, for two minutes.
    """
    from google.cloud import exceptions

    try:
      self._blob.upload_from_string(text, if_generation_match=self._generation)
    except exceptions.PreconditionFailed:
      # A first try may have come through, and its answer not.
      return self.read() == text
    except Exception as error:
      raise OutputError(
        f'{SCHEME}{self._blob.bucket.name}/{self._blob.name} could not be '
        f'written ({_short(error)}).'
      ) from error
    self.text, self._generation = text, self._blob.generation
    return True
