"""Buckets, gs:// and s3://: what `etils.epath` does not do there.

`epath` reads a bucket as a disk after `check`. What is written is whole or
absent: one object is written at once, so it needs no temporary name, and says
in its metadata that it is ours. It is replaced only by who knows what it holds,
which keeps the files of others, and makes a lock of an `Object`.
"""

import concurrent.futures
import errno
import functools
import os
import pathlib
import re
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pixeldit_jax.errors import OutputError, UserError, one_line
from pixeldit_jax.storage import amazon_s3, google_cloud
from pixeldit_jax.storage.stored_object import Data, StoredObject

CLIENTS = {'gs': google_cloud, 's3': amazon_s3}  # by what stands before '://'
_CLIENTS = ('google', 'gcsfs', 's3fs', 'botocore', 'aiobotocore')
_REFUSALS = 'PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED'
THREADS = 16  # that read or write at once


def refusal(error: BaseException | None) -> str:
  """What a bucket said, of an error that came of it; '' of any other.

  After the first seconds of a command it is a client that raises, of this
  module, `epath` or TensorStore: credentials may have run out.
  """
  while error is not None:
    text = one_line(error)
    frames = traceback.walk_tb(error.__traceback__)
    modules = {frame.f_globals.get('__name__', '') for frame, _ in frames}
    roots = {name.partition('.')[0] for name in modules}
    if roots & {*_CLIENTS} or re.match(_REFUSALS, text):  # of TensorStore
      silent = isinstance(error, TimeoutError) and not text
      return 'no answer in time' if silent else text[:300] or repr(error)
    error = error.__cause__ or error.__context__
  return ''


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is a URL, whatever its scheme."""
  return '://' in os.fspath(path)


def is_bucket(path: str | os.PathLike) -> bool:
  """Whether a path is in a bucket of a kind that is known."""
  return os.fspath(path).startswith(tuple(f'{name}://' for name in CLIENTS))


def check(path: str | os.PathLike) -> None:
  """Prepares to read and write in a bucket; nothing for a path on a disk.

  Raises:
    MissingPackageError: a package for buckets is not installed.
    UserError: no such bucket, no permission, no credentials, or no answer; or
      a place of another kind.
  """
  if is_remote(path):
    _check(*_split(path)[:2])


@functools.cache
def _check(scheme: str, bucket: str) -> None:
  # An installed TensorFlow would serve them in place of gcsfs and s3fs.
  os.environ.setdefault('EPATH_USE_TF', '0')
  CLIENTS[scheme].check(bucket)


def _split(path: str | os.PathLike) -> tuple[str, str, str]:
  """The scheme, bucket and name of 'gs://bucket/name'."""
  text = os.fspath(path)
  scheme, _, rest = text.partition('://')
  if scheme not in CLIENTS:
    kinds = ' or '.join(f'{name}://bucket/name' for name in CLIENTS)
    raise UserError(
      f'{text}: {scheme}:// is not supported; give a path on a disk, or '
      f'{kinds}.'
    )
  bucket, _, name = rest.partition('/')
  if not bucket:
    raise UserError(f'{text}: expected {scheme}://bucket/name.')
  return scheme, bucket, name.strip('/')


def _of(path: str | os.PathLike) -> tuple[Any, str, str]:
  """The client, bucket and name of a path."""
  scheme, bucket, name = _split(path)
  return CLIENTS[scheme], bucket, name


def objects(path: str | os.PathLike) -> Iterator[StoredObject]:
  """Yields what is in a bucket, of names that begin so."""
  client, bucket, name = _of(path)
  yield from client.objects(bucket, name)


def below(path: str | os.PathLike) -> list[StoredObject]:
  """The object of this name, and all in the folder of this name."""
  name = _split(path)[2]
  return [
    found
    for found in objects(path)
    if found.name == name or found.name.startswith(f'{name}/')
    if not found.name.endswith('/')  # what consoles make to show a folder
  ]


def read_bytes(path: str | os.PathLike) -> bytes:
  """What an object holds, of one moment: `epath` asks for its length before.

  Where another process replaces it in between, s3fs raises, and gcsfs gives the
  new bytes cut at the length of the old ones.

  Raises:
    FileNotFoundError: it is absent.
  """
  client, bucket, name = _of(path)
  found = client.read(bucket, name)
  if found is None:
    raise FileNotFoundError(errno.ENOENT, 'no such object', os.fspath(path))
  return found[0]


def download(path: str, target: pathlib.Path) -> None:
  """Copies an object to a disk."""
  client, bucket, name = _of(path)
  client.download(bucket, name, target)


def foreign(path: str | os.PathLike) -> list[str]:
  """What is there, or below, that we did not write: as paths."""
  client, bucket, _ = _of(path)

  def is_foreign(found: StoredObject) -> bool:
    again = client.find(bucket, found.name) if found.mark is None else found
    return again is not None and not again.mark

  there = below(path)
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    pairs = zip(there, pool.map(is_foreign, there))
  scheme = os.fspath(path).partition('://')[0]
  return [f'{scheme}://{bucket}/{one.name}' for one, other in pairs if other]


def put(
  path: str | os.PathLike,
  data: Data,
  version: str | None = None,
) -> str | None:
  """Writes an object as ours, whole or not at all; returns its version.

  Args:
    path: of the object.
    data: what it holds, or a file that holds it.
    version: of what it replaces, '' if there is nothing; then None is returned
      where there is something else. By default anything is replaced.

  Raises:
    OutputError: it could not be written.
  """
  client, bucket, name = _of(path)
  mark = uuid.uuid4().hex
  try:
    made = client.put(bucket, name, data, mark, version)
    if made is None:  # a first try may have come through, and its answer not
      found = client.find(bucket, name)
      made = found.version if found and found.mark == mark else None
  except Exception as error:  # each client has errors of its own
    raise OutputError(
      f'{os.fspath(path)} could not be written ({one_line(error)[:300]}).'
    ) from error
  return made


def upload(made: pathlib.Path, path: str | os.PathLike) -> list[str]:
  """Writes a file or a folder from a disk, and removes what it replaces.

  A folder is complete when the last of its files, by name, is there.

  Returns:
    Names that were not written, as somebody else's object has them.
  """
  target = os.fspath(path)
  there = {f'{_root(target)}/{found.name}': found for found in below(target)}
  names = [target]
  if made.is_dir():
    files = sorted(file for file in made.rglob('*') if file.is_file())
    names = [f'{target}/{f.relative_to(made).as_posix()}' for f in files]
  else:
    files = [made]
  client, bucket, _ = _of(target)

  def send(name: str, file: pathlib.Path) -> bool:
    found = there.get(name)
    if found and found.mark is None:
      found = client.find(bucket, found.name)
    if found and not found.mark:
      return False
    return put(name, file, found.version if found else '') is not None

  *first, last = zip(names, files)
  done = _in_threads(lambda pair: send(*pair), first) + [send(*last)]
  remove(name for name in there if name not in names)
  return [name for name, sent in zip(names, done) if not sent]


def _root(path: str) -> str:
  """'gs://bucket'."""
  return '/'.join(path.split('/', 3)[:3])


def _in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    return list(pool.map(work, items))


def remove(paths: Iterable[str | os.PathLike]) -> None:
  """Removes objects; those that are absent are no error."""

  def delete(path: str | os.PathLike) -> None:
    client, bucket, name = _of(path)
    client.delete(bucket, name)

  _in_threads(delete, paths)


def remove_below(path: str | os.PathLike) -> None:
  """Removes the object of this name, and all in the folder of this name."""
  root = _root(os.fspath(path))
  remove(f'{root}/{found.name}' for found in below(path))


class Object:
  """A small object that is replaced only by who has seen its last content."""

  def __init__(self, path: str):
    """Reads it.

    Args:
      path: in a bucket that was checked.
    """
    self._path, self._version = path, ''
    self.text = self.read()

  def read(self) -> str:
    """Its content now, which may then be replaced; '' if it is absent."""
    client, bucket, name = _of(self._path)
    found, self._version = client.read(bucket, name) or (b'', '')
    self.text = found.decode()
    return self.text

  def replace(self, text: str) -> bool:
    """Writes it if nobody else has since it was read; whether it did.

    Args:
      text: one that nobody else writes, and that differs each time.

    Raises:
      OutputError: the bucket refuses, or does not answer; see `patience`.
    """
    version = put(self._path, text.encode(), self._version)
    if version is None:
      self.read()
      return False
    self.text, self._version = text, version
    return True
