"""Where each picture of a data set is: arrays on disk, mapped into memory.

An index is a folder of arrays that are mapped and never loaded: a source of ten
million pictures takes no more memory than one of ten. `index_builder` makes it.
It has rows, one element for each picture:

  storage         how it is stored: one of the constants below
  offset, size    its bytes in the data file
  label           its class, -1 for none
  caption_offset, caption_size
                  its captions, as JSON in 'captions'
  name_end        where its name ends in 'names'

and blobs, the concatenation of those of all files: 'captions' and 'names'
(bytes), and of compressed pages 'blocks' and 'block_sizes' (see `snappy`).
"""

import bisect
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from pixeldit_jax import files
from pixeldit_jax.errors import UserError

# What 'storage' says: there is no picture; its bytes as they are; a range of a
# page in Snappy; only a whole row group can be read (offset: group, row in it);
# its captions are damaged.
MISSING, PLAIN, SNAPPY, GROUP, DAMAGED = range(5)
BLOCK = 2**16  # bytes that Snappy compresses independently of others
META = 'meta.json'
DTYPES = {
  'storage': np.uint8,
  'offset': np.int64,
  'size': np.uint32,
  'label': np.int32,
  'caption_offset': np.int64,
  'caption_size': np.uint32,
  'name_end': np.int64,
  'blocks': np.int64,
  'block_sizes': np.uint32,
  'captions': np.uint8,
  'names': np.uint8,
}
BLOBS = ('blocks', 'block_sizes', 'captions', 'names')
# What is odd, in words: how many are so, and the names of some.
Notes = dict[str, tuple[int, list[str]]]
_NAMED = 20  # odd things of a kind that are named


@dataclasses.dataclass
class Part:
  """What one data file holds.

  Attributes:
    rows: arrays of one element a picture; 'storage', 'offset' and 'size' at
      least.
    blobs: the arrays of another length.
    class_names: the classes in the order of their numbers, where the format
      says them.
    label_names: the texts that 'label' counts, where labels are texts; the
      classes of the whole source are then their sorted union.
    notes: what is odd.
  """

  rows: dict[str, np.ndarray]
  blobs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  class_names: Sequence[str] | None = None
  label_names: Sequence[str] | None = None
  notes: Notes = dataclasses.field(default_factory=dict)

  def note(self, words: str, names: Sequence[str]):
    """Adds to the notes what is true of these names, if there are any."""
    add_note(self.notes, words, len(names), names)


def add_note(notes: Notes, words: str, count: int, names: Sequence[str]):
  """Adds to notes that `count` more, some of which are `names`, are so."""
  if count:
    before, known = notes.get(words, (0, []))
    notes[words] = (
      before + count,
      list(dict.fromkeys([*known, *names]))[:_NAMED],
    )


def pack_texts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Returns texts as one block of bytes, and where each of them ends."""
  encoded = [text.encode() for text in texts]
  ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
  return np.frombuffer(b''.join(encoded), np.uint8), ends


class ByteIndex:
  """The index of a source, mapped; its pickle is a path.

  Attributes:
    meta: 'files', 'class_names', 'captions' (whether there are any), 'notes',
      'settings' and 'rows', the number of pictures.
    rows: the arrays of rows, by name.
    blobs: the other arrays, by name.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = os.fspath(folder)
    self.meta = files.read_json(os.path.join(self._folder, META))
    arrays = {
      name: _map(os.path.join(self._folder, name), DTYPES[name], length)
      for name, length in self.meta['arrays'].items()
    }
    self.rows = {k: v for k, v in arrays.items() if k not in BLOBS}
    self.blobs = {k: v for k, v in arrays.items() if k in BLOBS}
    self._file_ends: list[int] = self.meta['file_ends']
    self._name_end = self.rows.get('name_end')

  def __reduce__(self):
    return ByteIndex, (self._folder,)

  def __len__(self) -> int:
    return self.meta['rows']

  def file_of(self, row: int) -> tuple[str, str, int]:
    """Returns the path and the short name of a row's file, its row there."""
    if not 0 <= row < len(self):
      raise IndexError(row)
    number = bisect.bisect_right(self._file_ends, row)
    start = self._file_ends[number - 1] if number else 0
    return self.meta['files'][number], self.meta['titles'][number], row - start

  def name_of(self, row: int) -> str:
    """Returns the stored name of a row, '' where names are not stored."""
    ends = self._name_end
    if ends is None:
      return ''
    start = ends[row - 1] if row else 0
    return self.blobs['names'][start : ends[row]].tobytes().decode()


def _map(path: str, dtype: type, length: int) -> np.ndarray:
  if not length:  # an empty file cannot be mapped
    return np.zeros(0, dtype)
  try:
    mapped = np.memmap(path, dtype, 'r', shape=(length,))
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} is damaged ({error}); delete its folder: it is made again'
    ) from error
  return np.asarray(mapped)  # the same memory, quicker to index
