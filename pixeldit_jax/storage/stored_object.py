"""What a bucket says of one of its objects."""

import pathlib
from typing import NamedTuple

MARK = 'pixeldit'  # in the metadata of what we wrote; another value each time

Data = bytes | pathlib.Path  # what an object is to hold, or a file of it


class StoredObject(NamedTuple):
  """An object of a bucket.

  Attributes:
    name: without the bucket.
    size: in bytes.
    version: which content it is: a generation, or a checksum.
    changed: nanoseconds since 1970.
    mark: the value of `MARK` in its metadata; '' if it has none, None where a
      listing does not tell.
  """

  name: str
  size: int
  version: str
  changed: int
  mark: str | None
