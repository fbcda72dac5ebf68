"""Files that are whole or absent, with the checksums that vouch for them.

A file is written beside its place and renamed. A manifest lists it by an
entry: 'file' (its name), 'bytes' and 'sha256'; of a file of records also
'examples', their number.
"""

import concurrent.futures
import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

TEMPORARY = '.tmp-'  # how the names of half-written files begin


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


def write_whole(path: str, data: bytes):
  """Writes a file of these bytes."""
  with _beside(path) as beside, open(beside, 'wb') as file:
    file.write(data)


@contextlib.contextmanager
def write_records(path: str) -> Iterator[Any]:
  """Gives an ArrayRecord writer; the file is there once the block ends well."""
  from array_record.python import array_record_module

  with _beside(path) as beside:
    # What comes is compressed or noise; groups of one make access random.
    writer = array_record_module.ArrayRecordWriter(
      beside, 'group_size:1,uncompressed'
    )
    try:
      yield writer
    finally:
      writer.close()


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
  """Gives a name to write to, renamed to `path` if the block ends well."""
  folder, name = os.path.split(path)
  beside = os.path.join(folder, f'{TEMPORARY}{os.getpid()}-{name}')
  try:
    yield beside
    os.replace(beside, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(beside)


def remove_temporaries(folder: str, names: Sequence[str] | None = None):
  """Removes what a killed run left half-written: of these files, or of all."""
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    ends = name.removeprefix(TEMPORARY).partition('-')[2]
    if name.startswith(TEMPORARY) and (names is None or ends in names):
      os.remove(os.path.join(folder, name))


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
