"""ArrayRecord files: sequences of bytes with random access."""

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pixeldit_jax import files


class Records:
  """Writes records to a file.

  Attributes:
    entry: of the complete file, for a manifest next to it.
  """

  entry: files.Entry

  def __init__(self, writer: Any):
    self.write = writer.write  # f(record)


@contextlib.contextmanager
def write_records(path: str | os.PathLike) -> Iterator[Records]:
  """Yields a writer of records; the file appears once the block succeeds."""
  from array_record.python import array_record_module

  with files.replacing(path) as temporary:
    # What comes is compressed or noise; groups of one make access random.
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(temporary), 'group_size:1,uncompressed'
    )
    records = Records(writer)
    try:
      yield records
    finally:
      writer.close()
    name = os.path.basename(os.fspath(path))
    records.entry = files.entry_of(temporary) | {'file': name}


def count_faults(
  folder: str | os.PathLike, entries: Sequence[Mapping[str, Any]]
) -> list[str]:
  """One line for each file that holds other than 'examples' records.

  Each file is opened, and its index read: about a millisecond.
  """

  def fault(entry):
    return record_fault(f'{folder}/{entry["file"]}', entry['examples'])

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return [found for found in pool.map(fault, entries) if found]


def record_fault(path: str | os.PathLike, expected: int) -> str:
  """What is wrong with the number of records in a file, '' if nothing is."""
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    count = reader.num_records()
    reader.close()
  except RuntimeError as error:
    return f'{path}: {str(error) or "cut short"}'
  if count != expected:
    return f'{path} has {count} records, not {expected}'
  return ''


def open_records(
  folder: str | os.PathLike, entries: Sequence[Mapping[str, Any]]
) -> Sequence[bytes]:
  """Opens the records of several files as one sequence.

  Args:
    folder: of the files.
    entries: of the manifest; 'examples' is the number of records in a file.
  """
  from array_record.python import array_record_data_source

  return array_record_data_source.ArrayRecordDataSource(
    [
      # With its range, a file need not be opened to be counted.
      f'{os.path.abspath(folder)}/{entry["file"]}[0:{entry["examples"]}]'
      for entry in entries
      if entry['examples']
    ]
  )
