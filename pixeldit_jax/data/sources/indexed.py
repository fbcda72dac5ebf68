"""Sources that read each picture where it is in its file, by an index."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from pixeldit_jax.data.captions import Caption
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.sources.byte_index import DAMAGED, MISSING, ByteIndex
from pixeldit_jax.data.transforms import BadExample

log = logging.getLogger(__name__)


class IndexedSource(Source):
  """The pictures of an index, in its order; a worker gets only its path.

  A kind of data makes the index in its `__init__`, and overrides `_image` where
  a picture is not simply a range of bytes.
  """

  def __init__(self, index: ByteIndex, spec: str):
    """Takes the index, and says what is odd about it."""
    self._take(index)
    for note in index.meta['notes']:
      log.warning('%s: %s', spec, note)

  def _take(self, index: ByteIndex):
    self._index = index
    self.class_names = tuple(index.meta['class_names'])
    self.captions = index.meta['captions']

  def __reduce__(self):
    return _reopen, (type(self), self._index)

  def check(self, *, checksums: bool = False, **options: Any) -> None:
    """Compares the checksums of the files, where their format has any.

    The options are those of `Source.check`. Images are resized when they are
    read, so every resolution will do.
    """
    if checksums:
      first = options.get('process_index', 0)
      for path in self.files[first :: options.get('process_count', 1)]:
        self._compare_checksums(path)

  def _compare_checksums(self, path: str) -> None:
    """Compares the checksums of one file; a format without any does nothing.

    Raises:
      UserError: the file is damaged.
    """

  @property
  def settings(self) -> dict[str, Any]:
    """What the index was made with."""
    return self._index.meta['settings']

  @property
  def files(self) -> Sequence[str]:
    """The data files."""
    return self._index.meta['files']

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, index: int) -> Example:
    rows = self._index.rows
    path, title, row = self._index.file_of(index)
    name = f'{title}/{self._index.name_of(index) or f"{row:08d}"}'
    label = int(rows['label'][index]) if 'label' in rows else -1
    # The network would take it for no class.
    if label < 0 and self.class_names and not self.captions:
      raise BadExample(f'{name} has no label')
    storage = rows['storage'][index]
    if storage == MISSING:
      raise BadExample(f'{name} has no picture')
    if storage == DAMAGED:
      raise BadExample(f'{name} has damaged captions')
    try:
      image = self._image(index, path)
    except BadExample as error:
      raise BadExample(f'{name}: {error}') from error
    example: Example = {'image': image, 'label': label, 'name': name}
    if self.captions:
      example['captions'] = self._captions_of(index)
    return example

  def _image(self, index: int, path: str) -> Any:
    """Reads a picture; `path` is its data file."""
    rows = self._index.rows
    return read_range(
      path, int(rows['offset'][index]), int(rows['size'][index])
    )

  def _captions_of(self, index: int) -> list[Caption]:
    offset = int(self._index.rows['caption_offset'][index])
    size = int(self._index.rows['caption_size'][index])
    text = self._index.blobs['captions'][offset : offset + size].tobytes()
    return [Caption(*item) for item in json.loads(text)] if text else []


def _reopen(kind: type[IndexedSource], index: ByteIndex) -> IndexedSource:
  """Makes the copy of a worker: nothing is searched or scanned again."""
  source = kind.__new__(kind)
  source._take(index)
  return source


def read_range(path: str, offset: int, size: int) -> bytes:
  """Reads a range of a file.

  Raises:
    BadExample: if the file ends before.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one call reads 2 GiB at most
      more = os.pread(descriptor, size - len(data), offset + len(data))
      if not more:
        raise BadExample(
          f'{path} is cut short: it ends at {offset + len(data)}'
        )
      data += more
  finally:
    os.close(descriptor)
  return data
