"""Files that are whole or absent, and manifests of their sizes and checksums.

A file is written under a temporary name in its own folder and renamed when it
is complete; nothing else in the package renames. A manifest lists a file by an
entry: 'file' (its name), 'bytes' and 'sha256'; of a file of records also
'examples', their number.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from pixeldit_jax.errors import UserError

TEMPORARY = '.tmp-'  # how the names of half-written files begin


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
  """Yields a temporary path that is renamed to `path` if the block succeeds.

  The temporary path is in the same folder, which is made if absent. It may
  become a file, or a folder where `path` is not there yet. On failure it is
  removed.
  """
  target = epath.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Hosts may share the folder, and have processes of one number.
  unique = f'{os.getpid()}_{uuid.uuid4().hex[:8]}'
  temporary = target.with_name(f'{TEMPORARY}{unique}-{target.name}')
  try:
    yield temporary
    temporary.replace(target)
  finally:
    if temporary.is_dir():
      temporary.rmtree()
    elif temporary.exists():
      temporary.unlink()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Replaces a file by these bytes, at once."""
  with replacing(path) as temporary:
    temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Replaces a file by this text, at once."""
  with replacing(path) as temporary:
    temporary.write_text(text)


def write_json(path: str | os.PathLike, value: Any, **options) -> None:
  """Replaces a file by `value` as JSON; `options` are those of json.dumps."""
  write_text(path, json.dumps(value, **dict(indent=2) | options) + '\n')


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
  """Reads a JSON file whose outermost value is of `kind`.

  Raises:
    FileNotFoundError: it is absent.
    UserError: it is no JSON, or of another kind.
  """
  return parse_json(epath.Path(path).read_text(), path, kind)


def parse_json(text: str, path: str | os.PathLike, kind: type = dict) -> Any:
  """Parses JSON text that was read from `path`; see `read_json`."""
  try:
    value = json.loads(text)
  except ValueError as error:
    raise UserError(
      f'{path} is damaged ({error}): bring back a copy, or correct it by hand.'
    ) from error
  if not isinstance(value, kind):
    raise UserError(
      f'{path} is damaged: it holds {type(value).__name__}, not '
      f'{kind.__name__}: bring back a copy, or correct it by hand.'
    )
  return value


def sha256(path: str) -> str:
  """Returns the checksum of a file, in hex."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def entry_of(path: str) -> dict[str, Any]:
  """Returns the entry of a file for a manifest in the same folder."""
  return {
    'file': os.path.basename(path),
    'bytes': os.path.getsize(path),
    'sha256': sha256(path),
  }


@contextlib.contextmanager
def write_records(path: str) -> Iterator[Any]:
  """Gives an ArrayRecord writer; the file is there once the block ends well."""
  from array_record.python import array_record_module

  with replacing(path) as temporary:
    # What comes is compressed or noise; groups of one make access random.
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(temporary), 'group_size:1,uncompressed'
    )
    try:
      yield writer
    finally:
      writer.close()


def remove_temporaries(folder: str, names: Sequence[str] | None = None):
  """Removes the half-written files and folders that a killed run left.

  Args:
    folder: where they are.
    names: of the files or folders that were to be written; all by default.
  """
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    ends = name.removeprefix(TEMPORARY).partition('-')[2]
    if name.startswith(TEMPORARY) and (names is None or ends in names):
      path = epath.Path(folder) / name
      if path.is_dir():
        path.rmtree()
      else:
        path.unlink()


def open_records(path: str, entries: list[dict[str, Any]]) -> Any:
  """Opens the records of all these files as one sequence of bytes."""
  from array_record.python import array_record_data_source

  return array_record_data_source.ArrayRecordDataSource(
    [
      # With its range, a file need not be opened to be counted.
      f'{os.path.abspath(path)}/{entry["file"]}[0:{entry["examples"]}]'
      for entry in entries
      if entry['examples']
    ]
  )


def faults(
  path: str,
  entries: list[dict[str, Any]],
  checksums: bool = False,
  process_index: int = 0,
  process_count: int = 1,
) -> list[str]:
  """Returns in words what is wrong with the files of a folder.

  Args:
    path: the folder.
    entries: what the manifest says of the files.
    checksums: if all sizes are right, read every process_count-th file.
    process_index: the first that is read.
    process_count: see `checksums`.
  """
  found = []
  for entry in entries:
    name = os.path.join(path, entry['file'])
    size = os.path.getsize(name) if os.path.exists(name) else 'no'
    if size != entry['bytes']:
      found.append(f'{entry["file"]} has {size} bytes, not {entry["bytes"]}')
  if found or not checksums:
    return found
  part = entries[process_index::process_count]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    sums = pool.map(
      sha256, [os.path.join(path, entry['file']) for entry in part]
    )
    return [
      f'{entry["file"]} is damaged: its checksum differs'
      for entry, read in zip(part, sums)
      if read != entry['sha256']
    ]
