"""Copies of what is in buckets, on a disk of this machine."""

import concurrent.futures
import contextlib
import fnmatch
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from pixeldit_jax import files
from pixeldit_jax.errors import MissingFileError
from pixeldit_jax.storage import buckets
from pixeldit_jax.storage.stored_object import StoredObject


def folder_of(scheme: str) -> pathlib.Path:
  """Where the copies of gs:// or s3:// are, below the names of buckets."""
  return files.cache_folder(scheme)


def here(path: str | os.PathLike) -> str:
  """The path of a copy of what is in a bucket; any other path as it is."""
  text = os.fspath(path)
  return os.fspath(fetch(text)) if buckets.is_bucket(text) else text


@contextlib.contextmanager
def borrowed(path: str) -> Iterator[pathlib.Path]:
  """Yields a file of a bucket on a disk, for a while; others as they are."""
  if not buckets.is_bucket(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory(prefix='pixeldit-') as folder:
    copy = pathlib.Path(folder) / os.path.basename(path)
    buckets.download(path, copy)
    yield copy


def fetch(path: str | os.PathLike) -> pathlib.Path:
  """Copies a file, a folder, or the files of a glob to a disk; returns it.

  What was copied before, and is the same in the bucket, stays: below
  `folder_of('gs')`, which can be deleted while nobody reads there. A path on a
  disk is returned as it is.

  Raises:
    MissingFileError: there is nothing of this name.
    UserError: see `buckets.check`.
  """
  if not buckets.is_remote(path):
    return pathlib.Path(path)
  buckets.check(path)
  scheme, _, rest = os.fspath(path).partition('://')
  bucket, _, name = rest.partition('/')
  name, cache = name.strip('/'), folder_of(scheme) / bucket
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
    one.name: one
    for one in buckets.objects(f'{scheme}://{bucket}/{prefix}')
    if is_named(one.name) and files.is_inside(one.name)
    if not one.name.endswith('/')
  }
  if not found:
    raise MissingFileError(f'there is no {os.fspath(path)}.')

  def copy(one: StoredObject) -> None:
    target = cache / one.name
    if target.is_file():
      there = target.stat()
      if (there.st_size, there.st_mtime_ns) == (one.size, one.changed):
        return
    with files.replacing(target) as made:
      buckets.download(f'{scheme}://{bucket}/{one.name}', pathlib.Path(made))
      os.utime(made, ns=(one.changed, one.changed))

  with concurrent.futures.ThreadPoolExecutor(buckets.THREADS) as pool:
    list(pool.map(copy, found.values()))
  for kept in (cache / prefix).rglob('*'):
    below = kept.relative_to(cache).as_posix()
    if kept.name.startswith(files.TEMPORARY) or below in found:
      continue
    if kept.is_file() and is_named(below):
      kept.unlink(missing_ok=True)  # it is no longer in the bucket
  return cache / name
