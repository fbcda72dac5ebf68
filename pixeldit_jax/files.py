"""Files that are complete or absent, and manifests of sizes and checksums.

A file is written under a temporary name in its own folder and renamed when it
is complete; nothing else in the package renames. A manifest is a JSON file with
an entry for each file: 'file' (its path relative to the manifest), 'bytes' and
a checksum, 'sha256' or 'crc32'.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from pixeldit_jax.errors import (
  MissingFileError,
  OutputError,
  TooLargeError,
  UserError,
)
from pixeldit_jax.storage import buckets

# Environment variables: workers inherit what the flags of a command set.
MAX_BYTES = 'PIXELDIT_MAX_BYTES'  # of what is read at once
MAX_PIXELS = 'PIXELDIT_MAX_PIXELS'  # of an image that is decoded
LIMITS = {MAX_BYTES: 4 * 2**30, MAX_PIXELS: 512 * 2**20}  # RGB: 1.5 GiB
TEMPORARY = '.tmp-'  # how the names of half-written files begin
Entry = dict[str, Any]  # of one file in a manifest
_BLOCK = 1 << 22  # bytes that are read at once


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
  """Yields a temporary path that is renamed to `path` if the block succeeds.

  The temporary path is in the same folder, which is made if absent. It may
  become a file, or a folder where `path` is not there yet. On failure it is
  removed. For a bucket it is on a disk, and sent when it is complete.

  Raises:
    OutputError: the bucket has something there that we did not write, or does
      not take it.
  """
  if buckets.is_remote(path):
    with tempfile.TemporaryDirectory(prefix='pixeldit-') as folder:
      made = epath.Path(folder) / os.path.basename(os.fspath(path).rstrip('/'))
      yield made
      if others := buckets.upload(pathlib.Path(made), path):
        raise OutputError(
          f'{others[0]} is there and not ours: it is never replaced. Move it '
          'away, or choose another name.'
        )
    return
  target = epath.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  with temporary(target) as made:
    yield made
    made.replace(target)


@contextlib.contextmanager
def temporary(path: str | os.PathLike) -> Iterator[epath.Path]:
  """Yields a path next to `path` for a file or folder, and deletes it then."""
  target = epath.Path(path)
  # Hosts may share the folder, and have processes of one number.
  unique = f'{os.getpid()}_{uuid.uuid4().hex[:8]}'
  made = target.with_name(f'{TEMPORARY}{unique}-{target.name}')
  try:
    yield made
  finally:
    if made.is_dir():
      made.rmtree()
    elif made.exists():
      made.unlink()


def cache_folder(kind: str = '') -> pathlib.Path:
  """Returns where things of a kind that can be made again are kept."""
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(os.path.expanduser(base), 'pixeldit_jax', kind)


def check_size(size: int, what: object) -> None:
  """Raises TooLargeError before memory is taken for what a file says it holds.

  Args:
    size: bytes that it would take at once.
    what: names it.
  """
  limit = limit_of(MAX_BYTES)
  if size > limit:
    raise TooLargeError(
      f'{what} would take {size:,} bytes at once, more than the {limit:,} that '
      f'are read so; --max_bytes={size} allows it, or {MAX_BYTES} in the '
      'environment.'
    )


def limit_of(name: str) -> int:
  """One of `LIMITS`, as the environment has it.

  Raises:
    UserError: it is no positive integer there.
  """
  text = os.environ.get(name, str(LIMITS[name]))
  try:
    limit = int(text)
  except ValueError:
    limit = 0
  if limit < 1:
    raise UserError(f'{name}={text!a}: expected a positive integer.')
  return limit


def read_limited(path: str | os.PathLike) -> bytes:
  """Reads a file of a user, unless it is too large for memory.

  Raises:
    OSError: it cannot be read, or is too large.
  """
  with open(path, 'rb') as file:
    check_size(os.fstat(file.fileno()).st_size, path)
    return file.read()


def expand_user(text: str) -> str:
  """'~/x' and 'folder:~/x' with the home folder in place of '~'."""
  match = re.fullmatch(r'((?:[a-z_]+:)*)(~[^/:]*(?:/.*)?)', text, re.S)
  return match[1] + os.path.expanduser(match[2]) if match else text


def write_bytes(path: str | os.PathLike, data: bytes | memoryview) -> None:
  """Replaces a file by these bytes, at once.

  Raises:
    OutputError: it is in a bucket, and could not be written.
  """
  if buckets.is_remote(path):
    buckets.put(path, bytes(data))
    return
  with replacing(path) as made:
    made.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Replaces a file by this text, at once."""
  write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any, **options) -> None:
  """Replaces a file by `value` as JSON; `options` are those of json.dumps."""
  write_text(path, json.dumps(value, **dict(indent=2) | options) + '\n')


def read_json(
  path: str | os.PathLike, kind: type = dict, form: Any = None
) -> Any:
  """Reads a JSON file whose outermost value is of `kind`, and of a form.

  A form is a type; a list of one form, for lists of such values; or a dict of
  forms by key, those with '?' behind their name need not be there. `float`
  takes integers as well, `object` takes all.

  Raises:
    FileNotFoundError: it is absent.
    UserError: it is no JSON, or of another kind.
  """
  return parse_json(read_text(path), path, kind, form)


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads a file that another process may replace: all of one moment.

  Raises:
    FileNotFoundError: it is absent.
  """
  if buckets.is_bucket(path):
    return buckets.read_bytes(path)
  return epath.Path(path).read_bytes()


def read_text(path: str | os.PathLike, encoding: str = 'utf-8') -> str:
  """Reads a file of text.

  Raises:
    FileNotFoundError: it is absent.
    UserError: its bytes are no text in this encoding.
  """
  try:
    return read_bytes(path).decode(encoding)
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is no text in UTF-8 ({error.reason} at byte {error.start}): '
      'bring back a copy, or save it as UTF-8.'
    ) from error


def parse_json(
  text: str, path: str | os.PathLike, kind: type = dict, form: Any = None
) -> Any:
  """Parses JSON text that was read from `path`; see `read_json`."""
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(
      f'{path} is damaged ({error}): bring back a copy, or correct it by hand.'
    ) from error
  if not isinstance(value, kind):
    raise UserError(
      f'{path} is damaged: it holds {type(value).__name__}, not '
      f'{kind.__name__}: bring back a copy, or correct it by hand.'
    )
  if form is not None and (wrong := differs(value, form)):
    raise UserError(
      f'{path} is damaged: {wrong}. Bring back a copy, or correct it by hand.'
    )
  return value


def differs(value: Any, form: Any, key: str = '') -> str:
  """What of a JSON value is not of a form (see `read_json`); '' if it is."""
  where = key or 'it'
  if isinstance(form, list):
    if not isinstance(value, list):
      return f'{where} is {_shown(value)}, expected a list'
    found = (differs(v, form[0], f'{key}[{i}]') for i, v in enumerate(value))
    return next(filter(None, found), '')
  if isinstance(form, dict):
    if not isinstance(value, dict):
      return f'{where} is {_shown(value)}, expected an object'
    for name, inner in form.items():
      path = f'{key}.{name}'.strip('.?')
      name = name.removesuffix('?') if (optional := name[-1] == '?') else name
      if name in value:
        if wrong := differs(value[name], inner, path):
          return wrong
      elif not optional:
        return f'{path} is absent'
    return ''
  kinds = (int, float) if form is float else form
  if not isinstance(value, kinds) or (
    isinstance(value, bool) and form not in (bool, object)
  ):
    return f'{where} is {_shown(value)}, expected {form.__name__}'
  return ''


def _shown(value: Any) -> str:
  text = ascii(value)
  return text if len(text) < 60 else f'{text[:60]}...'


def is_inside(name: str) -> bool:
  """Whether a relative path stays in the folder that it is of."""
  parts = name.replace('\\', '/').split('/')
  return bool(name) and '..' not in parts and not os.path.isabs(name)


def check_inside(names: Iterable[object], path: str | os.PathLike) -> None:
  """Raises UserError unless the names in a file stay in the folder of it."""
  outside = [n for n in names if not (isinstance(n, str) and is_inside(n))]
  if outside:
    raise UserError(
      f'{path} is damaged: {outside[0]!a} is no file next to it, and nothing '
      'else is read. Bring back a copy, or correct it by hand.'
    )


def read_manifest(
  path: str | os.PathLike, form: str, missing: str
) -> dict[str, Any]:
  """Reads a manifest whose 'format' is `form`.

  Args:
    path: of the manifest.
    form: its format and version.
    missing: what its absence means and how to get it.

  Raises:
    MissingFileError: it is absent.
    UserError: it is damaged, or a manifest of another format.
  """
  if not epath.Path(path).exists():
    raise MissingFileError(f'no {path}: {missing}')
  manifest = read_json(path)
  if manifest.get('format') != form:
    raise UserError(
      f'{path} is no manifest of the format {form!r}, but of '
      f'{manifest.get("format")!r}'
    )
  lists = [v for v in manifest.values() if isinstance(v, list)]
  entries = [e for listed in lists for e in listed if isinstance(e, dict)]
  check_inside((e.get('file', '-') for e in entries), path)
  return manifest


def sha256(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file, in hex."""
  digest = hashlib.sha256()
  for block in _blocks(path):
    digest.update(block)
  return digest.hexdigest()


def crc32(path: str | os.PathLike) -> int:
  """Returns the CRC-32 of a file: faster than SHA-256, enough for damage."""
  crc = 0
  for block in _blocks(path):
    crc = zlib.crc32(block, crc)
  return crc


def _blocks(path: str | os.PathLike) -> Iterator[bytes]:
  with epath.Path(path).open('rb') as file:
    while block := file.read(_BLOCK):
      yield block


_CHECKSUMS = {'sha256': sha256, 'crc32': crc32}


def entry_of(path: str | os.PathLike, checksum: str = 'sha256') -> Entry:
  """Returns the entry of a file for a manifest in the same folder."""
  local = epath.Path(path)
  return {
    'file': local.name,
    'bytes': local.stat().length,
    checksum: _CHECKSUMS[checksum](path),
  }


def entries_of(
  folder: str | os.PathLike,
  checksum: str = 'sha256',
  exclude: Collection[str] = (),
) -> list[Entry]:
  """Returns the entries of all files below a folder, by their paths in it.

  Args:
    folder: of the manifest.
    checksum: 'sha256' or 'crc32'.
    exclude: names of files, at any depth, that are not listed.
  """
  return [
    entry_of(path, checksum) | {'file': name}
    for name, path in walk(folder)
    if path.name not in exclude
  ]


def walk(
  folder: str | os.PathLike, prefix: str = ''
) -> Iterator[tuple[str, epath.Path]]:
  """Yields the relative name and the path of each file below, sorted."""
  for path in sorted(epath.Path(folder).iterdir()):
    if path.is_dir():
      yield from walk(path, f'{prefix}{path.name}/')
    else:
      yield prefix + path.name, path


def verify_files(
  folder: str | os.PathLike,
  entries: Sequence[Mapping[str, Any]],
  *,
  checksums: bool = False,
  process_index: int = 0,
  process_count: int = 1,
) -> list[str]:
  """Compares files with a manifest; returns one line for each that differs.

  Args:
    folder: of the manifest.
    entries: what the manifest says of the files.
    checksums: if all sizes are right, read every process_count-th file too.
    process_index: the first that is read.
    process_count: the processes that share the reading.
  """
  folder = epath.Path(folder)
  found = []
  for entry in entries:
    path = folder / entry['file']
    if not path.exists():
      found.append(f'{entry["file"]} is missing')
    elif (size := path.stat().length) != entry['bytes']:
      found.append(f'{entry["file"]} has {size:,} bytes of {entry["bytes"]:,}')
  if found or not checksums:
    return found
  part = entries[process_index::process_count]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    same = pool.map(lambda entry: _has_checksum(folder, entry), part)
    return [
      f'{entry["file"]} is damaged: its checksum differs'
      for entry, right in zip(part, same)
      if not right
    ]


def _has_checksum(folder: epath.Path, entry: Mapping[str, Any]) -> bool:
  return all(
    read(folder / entry['file']) == entry[checksum]
    for checksum, read in _CHECKSUMS.items()
    if checksum in entry
  )


def sizes_in(folder: str | os.PathLike) -> dict[str, int]:
  """The bytes of each file in a folder, by name; none if it is absent."""
  if buckets.is_remote(folder):
    found = {
      one.name.rpartition('/'): one.size for one in buckets.below(folder)
    }
    name = os.fspath(folder).split('/', 3)[3]
    return {n: size for (home, _, n), size in found.items() if home == name}
  if not os.path.isdir(folder):
    return {}
  with os.scandir(os.fspath(folder)) as there:
    return {file.name: file.stat().st_size for file in there if file.is_file()}


def remove_temporaries(
  folder: str | os.PathLike, names: Collection[str] | None = None
) -> None:
  """Removes what a killed run left half-written: of these files, or of all."""
  if not os.path.isdir(folder):
    return
  for name in os.listdir(folder):
    target = name.removeprefix(TEMPORARY).partition('-')[2]
    if name.startswith(TEMPORARY) and (names is None or target in names):
      path = epath.Path(folder) / name
      if path.is_dir():
        path.rmtree()
      else:
        path.unlink()
