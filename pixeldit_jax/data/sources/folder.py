"""Folders of image files, with the captions in sidecars or tables."""

import collections
import json
import logging
import os
from collections.abc import Iterable

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.files import read_limited
from pixeldit_jax.images.image_files import (
  IMAGE_SUFFIXES,
  is_image,
  is_left_behind,
  walk,
)

log = logging.getLogger(__name__)

# Names of an image's sidecar: its own name or its stem, and one of these. A
# number below 256 says which, since a list of a million strings is slow.
_ENDINGS = tuple(
  ending for s in captions.SUFFIXES for ending in (s, s.upper(), s.title())
)
_SIDECARS = (
  (False, ''),
  *((full, e) for e in _ENDINGS for full in (False, True)),
)


class FolderSource(Source):
  """Image files under a folder, in the order of their names.

  With `labelled`, the folders directly under it are the classes, numbered in
  the order of their names (for ImageNet's wnids, the usual numbering); those
  that are named 0 to n - 1 are numbered by their names. A class
  folder without an image keeps its number, and is named in a warning, as are
  images outside any class folder and kinds of files that are not read.

  The captions of an image are its rows in a table of the folder, or else those
  of a sidecar next to it: see `captions.FORMS`. A JSON sidecar without a
  caption gives way to a text. Captions that no image takes are counted in a
  warning.
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
    self._sidecars = np.array([sidecar for _, sidecar in files], np.uint8)
    self._labels = np.full(len(files), -1, np.int32)
    if labelled:
      number = {name: i for i, name in enumerate(self.class_names)}
      self._labels[:] = [number[_class_of(name)] for name, _ in files]
    self._take_captions()

  def _take_classes(self, files: list) -> list:
    """Sets `class_names`; returns the files that lie in a class folder."""
    with os.scandir(self._path) as entries:
      self.class_names = _numbered(
        entry.name
        for entry in entries
        if entry.is_dir() and not is_left_behind(entry.name)
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
      not row and not sidecar for row, sidecar in zip(rows, self._sidecars)
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
    image = read_limited(os.path.join(self._path, name))
    example = Example(image=image, label=int(self._labels[index]), name=name)
    if self.captions:
      example['captions'] = self._captions_of(index, name)
    return example

  def _captions_of(self, index: int, name: str) -> list[captions.Caption]:
    start = self._ends[index - 1] if index else 0
    row = self._rows[start : self._ends[index]]
    if row:
      return [captions.Caption(*caption) for caption in json.loads(row)]
    sidecar = self._sidecars[index]
    return self._read_sidecar(name, sidecar) if sidecar else []

  def _read_sidecar(self, name: str, sidecar: int) -> list[captions.Caption]:
    path = os.path.join(self._path, _sidecar_of(name, sidecar))
    try:
      return captions.read_file(path)
    except KeyError as error:
      # JSON that says other things of the image; perhaps a text has captions.
      for other in range(1, len(_SIDECARS)):
        text = os.path.join(self._path, _sidecar_of(name, other))
        if not text.lower().endswith('.json') and os.path.exists(text):
          return captions.read_file(text)
      raise BadExample(f'captions in {path}: {error}') from error
    except ValueError as error:
      raise BadExample(f'captions in {path}: {error}') from error


class UnlabelledFolderSource(FolderSource):
  """Image files under a folder without classes, for those with captions."""

  def __init__(self, path: str):
    super().__init__(path, labelled=False)


def _numbered(names: Iterable[str]) -> tuple[str, ...]:
  """Class folders by label: by their numbers if these are 0 to n - 1.

  Else by their names, as ImageNet's wnids are.
  """
  ordered = sorted(names)
  if all(name.isascii() and name.isdigit() for name in ordered):
    numbers = sorted(map(int, ordered))
    if numbers == list(range(len(ordered))):
      log.info(
        'The class folders are named by their labels, 0 to %d.',
        len(ordered) - 1,
      )
      return tuple(sorted(ordered, key=int))
    if ordered:
      log.warning(
        'the class folders are numbers, but not 0 to %d: labels follow the '
        'order of their names, so that %r is label 0',
        *(len(ordered) - 1, ordered[0]),
      )
  return tuple(ordered)


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


def _sidecar_of(name: str, sidecar: int) -> str:
  """The name of an image's sidecar, by its number in `_SIDECARS`."""
  full, ending = _SIDECARS[sidecar]
  return (name if full else os.path.splitext(name)[0]) + ending


def _find_sidecars(files: list[str]) -> tuple[dict[str, int], set[str]]:
  """Sidecars of the images in one folder.

  Returns:
    The number in `_SIDECARS` by image, JSON before texts; and the names of
    sidecars that belong to no image.
  """
  names = {name for name in files if name.lower().endswith(captions.SUFFIXES)}
  found: dict[str, int] = {}
  taken: set[str] = set()
  endings = {os.path.splitext(name)[1] for name in names}
  kinds = [i for i in range(1, len(_SIDECARS)) if _SIDECARS[i][1] in endings]
  if kinds:
    for image in filter(is_image, files):
      for sidecar in kinds:
        if (name := _sidecar_of(image, sidecar)) in names:
          found[image] = sidecar
          taken.add(name)
  return found, names - taken


def _list_images(
  root: str,
) -> tuple[list[tuple[bytes, int]], collections.Counter[str]]:
  """Returns (path under root, number of its sidecar) of each image, sorted.

  The second result counts the other files, by suffix.
  """
  found: list[tuple[bytes, int]] = []
  alone: list[str] = []
  others: collections.Counter[str] = collections.Counter()
  for inside, files in walk(root):
    sidecars, without_image = _find_sidecars(files)
    for name in files:
      path = f'{inside}/{name}' if inside else name
      if not _is_text(path):
        others[f'{path!a} is not UTF-8'] += 1
      elif is_image(name):
        found.append((os.fsencode(path), sidecars.get(name, 0)))
      elif name in captions.TABLES:
        continue
      elif name in without_image:
        alone.append(path)
      elif not name.lower().endswith(captions.SUFFIXES):
        others[os.path.splitext(name)[1] or 'no suffix'] += 1
  if alone:
    log.warning(
      '%s: %d files of captions belong to no image, as %s; read are %s',
      root,
      len(alone),
      ', '.join(sorted(alone)[:3]),
      captions.FORMS,
    )
  return sorted(found), others
