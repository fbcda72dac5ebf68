"""Folders of image files, with the captions that lie beside them."""

import collections
import json
import logging
import os

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images.image_files import (
  IMAGE_SUFFIXES,
  is_image,
  is_left_behind,
  walk,
)

log = logging.getLogger(__name__)

_SUFFIXES = ('', *captions.SUFFIXES)


class FolderSource(Source):
  """Image files under a folder, in the order of their names.

  With `labelled`, the folders directly under it are the classes, numbered in
  the order of their names (for ImageNet's wnids, the usual numbering). A class
  folder without an image keeps its number, and is named in a warning, as are
  images outside any class folder and kinds of files that are not read.

  The captions of an image are its rows in `metadata.csv` or `metadata.jsonl` of
  the folder, or else a file of the same stem, `.txt` or `.json`: see
  `captions`.
  """

  def __init__(self, path: str, labelled: bool = True):
    if not os.path.isdir(path):
      raise MissingFileError(f'data source: no folder {path!r}')
    self._path = os.path.abspath(path)
    files, others = _list_images(self._path)
    if others:
      kinds = [f'{suffix} ({n})' for suffix, n in others.most_common(10)]
      log.warning(
        '%s: left out %d files that are no images by their names: %s',
        *(self._path, others.total(), ', '.join(kinds)),
      )
    if labelled:
      files = self._take_classes(files)
    if not files:
      layout = '<class>/<image>' if labelled else 'images'
      raise UserError(
        f'data source: no images under {path!r}; expected {layout} with '
        + ', '.join(IMAGE_SUFFIXES)
      )
    # One block of bytes: a list of a million strings is slow to hand on.
    self._names = np.array([name for name, _ in files], 'S')
    self._suffixes = np.array([suffix for _, suffix in files], np.uint8)
    self._labels = np.full(len(files), -1, np.int32)
    if labelled:
      number = {name: i for i, name in enumerate(self.class_names)}
      self._labels[:] = [number[_class_of(name)] for name, _ in files]
    self._take_captions()

  def _take_classes(self, files: list) -> list:
    """Sets `class_names`; returns the files that lie in a class folder."""
    with os.scandir(self._path) as entries:
      self.class_names = tuple(
        sorted(
          entry.name
          for entry in entries
          if entry.is_dir() and not is_left_behind(entry.name)
        )
      )
    for name in self.class_names:
      if not _is_text(name):
        raise UserError(f'{self._path}: the class {name!a} is not UTF-8')
    held = {_class_of(name) for name, _ in files}
    empty = [name for name in self.class_names if name not in held]
    if empty:
      log.warning(
        '%s: no image for %d classes: %s',
        *(self._path, len(empty), ', '.join(empty)),
      )
    loose = [os.fsdecode(name) for name, _ in files if b'/' not in name]
    if loose:
      log.warning(
        '%s: left out %d images without a class folder: %s',
        *(self._path, len(loose), ', '.join(loose[:20])),
      )
    return [file for file in files if b'/' in file[0]]

  def _take_captions(self):
    """Sets `captions`, and warns where only some images have one."""
    table = captions.read_table(self._path)
    names = [os.fsdecode(name) for name in self._names]
    unknown = sorted(table.keys() - set(names))
    if unknown:
      log.warning(
        '%s: the table has captions of %d files that are no images here: %s',
        *(self._path, len(unknown), ', '.join(unknown[:20])),
      )
    # One block of bytes and where each image's part of it ends.
    rows = [
      json.dumps(table[name]).encode() if name in table else b''
      for name in names
    ]
    self._rows = b''.join(rows)
    self._ends = np.cumsum([len(row) for row in rows])
    without = sum(
      not row and not suffix for row, suffix in zip(rows, self._suffixes)
    )
    self.captions = without < len(self)
    if self.captions and without:
      log.warning(
        '%s: %d of %d images have no caption; theirs is empty',
        *(self._path, without, len(self)),
      )

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> Example:
    name = os.fsdecode(self._names[index])
    with open(os.path.join(self._path, name), 'rb') as file:
      image = file.read()
    example = Example(image=image, label=int(self._labels[index]), name=name)
    if self.captions:
      example['captions'] = self._captions_of(index, name)
    return example

  def _captions_of(self, index: int, name: str) -> list[captions.Caption]:
    start = self._ends[index - 1] if index else 0
    row = self._rows[start : self._ends[index]]
    if row:
      return [captions.Caption(*caption) for caption in json.loads(row)]
    suffix = _SUFFIXES[self._suffixes[index]]
    if not suffix:
      return []
    path = os.path.join(self._path, os.path.splitext(name)[0] + suffix)
    try:
      return captions.read_file(path)
    except (ValueError, KeyError) as error:
      raise BadExample(f'captions in {path}: {error}') from error


class UnlabelledFolderSource(FolderSource):
  """Image files under a folder without classes, for those with captions."""

  def __init__(self, path: str):
    super().__init__(path, labelled=False)


def _is_text(name: str) -> bool:
  """Whether a file name is UTF-8, as manifests and prints must be."""
  try:
    name.encode()
  except UnicodeEncodeError:  # of the bytes that os.fsdecode could not read
    return False
  return True


def _class_of(name: bytes) -> str:
  """Returns the first folder of a relative path, '' where there is none."""
  head, slash, _ = name.partition(b'/')
  return os.fsdecode(head) if slash else ''


def _list_images(
  root: str,
) -> tuple[list[tuple[bytes, int]], collections.Counter[str]]:
  """Returns (path under root, kind of caption file) of each image, sorted.

  The second result counts the other files, by suffix.
  """
  found, others = [], collections.Counter()
  for inside, files in walk(root):
    kinds = {
      os.path.splitext(name)[0]: _SUFFIXES.index(suffix)
      for suffix in _SUFFIXES[1:]
      for name in files
      if name.endswith(suffix)
    }
    for name in files:
      path = f'{inside}/{name}' if inside else name
      if not _is_text(path):
        others[f'{path!a} is not UTF-8'] += 1
      elif is_image(name):
        kind = kinds.get(os.path.splitext(name)[0], 0)
        found.append((os.fsencode(path), kind))
      elif not name.endswith(captions.SUFFIXES) and name not in captions.TABLES:
        others[os.path.splitext(name)[1] or 'no suffix'] += 1
  return sorted(found), others
