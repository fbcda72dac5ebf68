"""Makes the index of the files of a source once, and keeps it.

A data file is scanned into a `Part`, and the parts of all files are joined to a
`ByteIndex`. Both are kept under $XDG_CACHE_HOME/pixeldit_jax/indexes (~/.cache)
by the size and the time of each file: a file that changed is scanned again.
Hosts that share this folder share the work; nothing is written next to the
data, which may belong to others.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from etils import epath

from pixeldit_jax import files, progress
from pixeldit_jax.data.sources import byte_index
from pixeldit_jax.data.sources.byte_index import ByteIndex, Notes, Part
from pixeldit_jax.errors import OutputError, UserError

log = logging.getLogger(__name__)

_FORMAT = 'pixeldit_jax byte index 1'
_MOST_CLASSES = 10**6  # more are no classes but numbers of another kind
_NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC}


def open_index(
  kind: str,
  paths: Sequence[str],
  scan: Callable[[str], Part],
  settings: Mapping[str, Any],
) -> ByteIndex:
  """Opens the index of data files; makes it first, if it is not kept.

  Args:
    kind: what scans them; with `settings` it decides what a part holds.
    paths: the data files, in the order of the source.
    scan: makes the part of one of them.
    settings: values for JSON; they are kept as `meta['settings']`.

  Raises:
    UserError: if files contradict each other, or from `scan`.
    OutputError: if the index cannot be written.
  """
  parts = {}
  for path in paths:
    status = os.stat(path)
    what = [_FORMAT, kind, dict(settings), os.path.abspath(path)]
    parts[path] = _key([*what, status.st_size, status.st_mtime_ns])
  name = _key(list(parts.values()))
  base = epath.Path(files.cache_folder('indexes'))
  folder = base / name
  try:
    if not (folder / byte_index.META).exists():
      with _locked(base, name):
        if not (folder / byte_index.META).exists():
          _scan_all(base / 'parts', parts, scan, kind)
          with files.replacing(folder) as temporary:
            temporary.mkdir()
            kept = {p: base / 'parts' / f'{k}.npz' for p, k in parts.items()}
            _join(temporary, kept, dict(settings))
  except OSError as error:
    if error.errno not in _NO_WRITING:
      raise
    raise OutputError(
      f'the index of {paths[0]} cannot be written to {base}: {error}. Set '
      'XDG_CACHE_HOME to a folder that has room'
    ) from error
  return ByteIndex(folder)


def _key(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


@contextlib.contextmanager
def _locked(base: epath.Path, name: str) -> Iterator[None]:
  """Holds a lock, so that the processes of a host do not all do one work."""
  base.mkdir(parents=True, exist_ok=True)
  with open(base / f'{name}.lock', 'w') as file:
    # Some network disks have no locks: then several make the same index.
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    for left in base.glob(f'{files.TEMPORARY}*-{name}'):  # by a killed run
      left.rmtree(missing_ok=True)
    yield
  (base / f'{name}.lock').unlink(missing_ok=True)


def _scan_all(
  folder: epath.Path,
  parts: Mapping[str, str],
  scan: Callable[[str], Part],
  kind: str,
):
  """Scans the files that have no part yet; a stopped run goes on with them."""
  missing = [
    path for path, key in parts.items() if not (folder / f'{key}.npz').exists()
  ]
  if not missing:
    return
  log.info(
    'making the index of %d %s files, once; it is kept in %s',
    len(missing),
    kind,
    folder.parent,
  )

  def make(path: str):
    part = scan(path)
    meta = {
      field: getattr(part, field)
      for field in ('class_names', 'label_names', 'notes')
    }
    with files.replacing(folder / f'{parts[path]}.npz') as temporary:
      with open(temporary, 'wb') as file:
        encoded = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        arrays = {**part.rows, **part.blobs, 'meta': encoded}
        np.savez_compressed(file, allow_pickle=False, **arrays)

  report = progress.Progress('Indexed', len(missing), unit='files')
  with concurrent.futures.ThreadPoolExecutor() as pool:
    running = [pool.submit(make, path) for path in missing]
    try:
      for done, future in enumerate(concurrent.futures.as_completed(running)):
        future.result()
        report(done + 1)
    finally:
      pool.shutdown(cancel_futures=True)


def _join(
  folder: epath.Path,
  parts: Mapping[str, epath.Path],
  settings: dict[str, Any],
):
  """Writes the arrays of all parts one after the other, then what they are."""
  class_names, texts, notes = _read_metas(parts)
  writer, labels = _Writer(folder), _Labels(class_names, texts)
  with_captions = 0
  for path, part in parts.items():
    with np.load(part) as arrays:
      columns = {name: arrays[name] for name in arrays.files}
    label_names = json.loads(bytes(columns.pop('meta')))['label_names']
    if 'label' in columns:
      columns['label'] = labels.take(path, columns['label'], label_names)
    if 'caption_size' in columns:
      with_captions += int(np.count_nonzero(columns['caption_size']))
    writer.append(columns)
  without = writer.count - with_captions
  if with_captions and without:
    byte_index.add_note(
      notes, 'pictures have no caption; theirs is empty', without, ()
    )
  common = os.path.commonpath([os.path.dirname(path) for path in parts])
  meta = {
    'rows': writer.count,
    'arrays': writer.close(),
    'files': list(parts),
    'titles': [os.path.relpath(path, common) for path in parts],
    'file_ends': writer.file_ends,
    'class_names': labels.class_names,
    'captions': with_captions > 0,
    'notes': [*_in_words(notes), *labels.notes()],
    'settings': settings,
  }
  (folder / byte_index.META).write_text(json.dumps(meta))


def _read_metas(
  parts: Mapping[str, epath.Path],
) -> tuple[list[str] | None, bool, Notes]:
  """Returns the classes, whether they are those of texts, and all notes."""
  first_path = next(iter(parts))
  declared: list[str] | None = None
  used: set[str] | None = None
  notes: Notes = {}
  for path, part in parts.items():
    with np.load(part) as arrays:
      meta = json.loads(bytes(arrays['meta']))
    if path == first_path:
      declared = meta['class_names']
    if meta['class_names'] != declared:
      raise UserError(
        f'{path} and {first_path} have other classes: are they of one data set?'
      )
    if meta['label_names'] is not None:
      used = (used or set()) | set(meta['label_names'])
    for words, (count, names) in meta['notes'].items():
      byte_index.add_note(notes, words, count, names)
  names = declared if used is None else sorted(used)
  return names, used is not None, notes


class _Writer:
  """Appends parts to the arrays of an index."""

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._open: dict[str, IO[bytes]] = {}
    self._lengths: dict[str, int] = {}
    self.count = 0
    self.file_ends: list[int] = []

  def append(self, columns: dict[str, np.ndarray]):
    """Writes the arrays of a part; what points into blobs is moved along."""
    columns = dict(columns)
    if 'blocks' in columns:
      base = self._lengths.get('blocks', 0) * byte_index.BLOCK
      moved = columns['storage'] == byte_index.SNAPPY
      columns['offset'] = columns['offset'] + base * moved
    if 'caption_offset' in columns:
      base = self._lengths.get('captions', 0)
      columns['caption_offset'] = columns['caption_offset'] + base
    if 'name_end' in columns:
      columns['name_end'] = columns['name_end'] + self._lengths.get('names', 0)
    for name, array in columns.items():
      if name not in self._open:
        self._open[name] = open(self._folder / name, 'wb')
      self._open[name].write(array.astype(byte_index.DTYPES[name]).tobytes())
      self._lengths[name] = self._lengths.get(name, 0) + len(array)
    self.count += len(columns['offset'])
    self.file_ends.append(self.count)

  def close(self) -> dict[str, int]:
    """Ends the files; returns the length of each array."""
    for file in self._open.values():
      file.close()
    return self._lengths


class _Labels:
  """Brings the labels of all files to one numbering, and counts them."""

  def __init__(self, class_names: list[str] | None, texts: bool):
    self._names, self._texts = class_names, texts
    self._numbers = {name: k for k, name in enumerate(class_names or ())}
    self._counts = np.zeros(len(self._numbers), np.int64)
    self._none = 0

  def take(
    self, path: str, labels: np.ndarray, label_names: list[str] | None
  ) -> np.ndarray:
    """Returns the labels of a file as numbers of the classes."""
    if self._texts and label_names is None and labels.max(initial=-1) >= 0:
      raise UserError(
        f'{path}: its labels are numbers, those of other files are texts: are '
        'they of one data set?'
      )
    if label_names is not None:
      numbers = [self._numbers[name] for name in label_names]
      labels = np.array([*numbers, -1], np.int64)[labels]  # -1 is the last
    labels = np.maximum(labels, -1)
    highest = int(labels.max(initial=-1))
    most = _MOST_CLASSES if self._names is None else len(self._names)
    if highest >= most:
      raise UserError(
        f'{path} has the label {highest}, but at most {most} classes are '
        'possible: choose another column by ?label=..., or none by ?label='
      )
    self._none += int(np.count_nonzero(labels < 0))
    counts = np.bincount(labels[labels >= 0], minlength=len(self._counts))
    counts[: len(self._counts)] += self._counts
    self._counts = counts
    return labels

  @property
  def class_names(self) -> list[str]:
    """The classes; by their numbers, where the data have no names."""
    if not self._counts.any():
      return []
    if self._names is not None:
      return self._names
    return [str(number) for number in range(len(self._counts))]

  def notes(self) -> list[str]:
    """Returns what is odd about the labels."""
    names = self.class_names
    notes: Notes = {}
    empty = [names[k] for k in np.flatnonzero(self._counts == 0)] * bool(names)
    byte_index.add_note(notes, 'classes have no picture', len(empty), empty)
    if names:
      byte_index.add_note(notes, 'pictures have no label', self._none, ())
    return _in_words(notes)


def _in_words(notes: Notes) -> list[str]:
  lines = []
  for words, (count, names) in notes.items():
    few = ', '.join(names) + (', ...' if count > len(names) > 0 else '')
    lines.append(
      f'{count} {words}' + re.sub(r'\s+', ' ', f': {few}' * bool(few))
    )
  return lines
