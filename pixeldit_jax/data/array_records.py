"""ArrayRecord files: sequences of bytes with random access."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pixeldit_jax.files import replacing


@contextlib.contextmanager
def write_records(path: str | os.PathLike) -> Iterator[Any]:
  """Yields an ArrayRecord writer; the file appears once the block succeeds."""
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
