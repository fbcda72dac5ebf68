"""Folders of image files, with the captions that lie beside them."""

import csv
import json
import os
from typing import Any

import numpy as np
from absl import logging

from pixeldit_jax.data.sources import Source
from pixeldit_jax.data.transforms import BadExample

IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'),
)
_CAPTION_SUFFIXES = ('', '.txt', '.json')
_CAPTION_KEYS = ('caption', 'text', 'prompt')
_TABLES = ('metadata.csv', 'metadata.jsonl')


class FolderSource(Source):
  """Image files under a folder, in the order of their names.

  With `labelled`, the folders directly under it are the classes, numbered in
  the order of their names (for ImageNet's wnids, the usual numbering). A class
  folder without an image keeps its number, and is named in a warning, as are
  images outside any class folder.

  The caption of an image is a file of the same stem (`.txt`, or `.json` with
  'caption', 'text' or 'prompt'), or its row in `metadata.csv` or
  `metadata.jsonl` of the folder (columns 'file_name' and one of those three).
  """

  def __init__(self, path: str, labelled: bool = True):
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data source: no folder {path!r}')
    self._path = os.path.abspath(path)
    files = _list_images(self._path)
    if labelled:
      files = self._take_classes(files)
    if not files:
      layout = '<class>/<image>' if labelled else 'images'
      raise ValueError(
        f'data source: no images under {path!r}; expected {layout} with '
        + ', '.join(IMAGE_SUFFIXES)
      )
    # One block of bytes: a list of a million strings is slow to hand on.
    self._names = np.array([name for name, _ in files], 'S')
    self._captions = np.array([caption for _, caption in files], np.uint8)
    self._labels = np.full(len(files), -1, np.int32)
    if labelled:
      number = {name: i for i, name in enumerate(self.class_names)}
      self._labels[:] = [number[_class_of(name)] for name, _ in files]
    self._table = _read_table(self._path)
    self._warn_about_captions()

  def _take_classes(self, files: list) -> list:
    """Sets `class_names`; returns the files that lie in a class folder."""
    with os.scandir(self._path) as entries:
      self.class_names = tuple(
        sorted(
          entry.name
          for entry in entries
          if entry.is_dir() and not entry.name.startswith('.')
        )
      )
    held = {_class_of(name) for name, _ in files}
    empty = [name for name in self.class_names if name not in held]
    if empty:
      logging.warning(
        '%s: no image for %d classes: %s',
        *(self._path, len(empty), ', '.join(empty)),
      )
    loose = [os.fsdecode(name) for name, _ in files if b'/' not in name]
    if loose:
      logging.warning(
        '%s: left out %d images without a class folder: %s',
        *(self._path, len(loose), ', '.join(loose[:20])),
      )
    return [file for file in files if b'/' in file[0]]

  def _warn_about_captions(self):
    """Sets `captions`, and warns where only some images have one."""
    count = len(self)
    with_caption = int((self._captions > 0).sum())
    if self._table:
      names = (os.fsdecode(name) for name in self._names)
      with_caption = sum(name in self._table for name in names)
    self.captions = with_caption > 0
    if 0 < with_caption < count:
      logging.warning(
        '%s: %d of %d images have no caption; theirs is empty',
        *(self._path, count - with_caption, count),
      )

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = os.fsdecode(self._names[index])
    with open(os.path.join(self._path, name), 'rb') as file:
      image = file.read()
    example = {'image': image, 'label': int(self._labels[index]), 'name': name}
    if self.captions:
      example['caption'] = self._read_caption(index, name)
    return example

  def _read_caption(self, index: int, name: str) -> str:
    if self._table:
      return self._table.get(name, '')
    suffix = _CAPTION_SUFFIXES[self._captions[index]]
    if not suffix:
      return ''
    path = os.path.join(self._path, os.path.splitext(name)[0] + suffix)
    try:
      with open(path, encoding='utf-8') as file:
        text = file.read()
      return text.strip() if suffix == '.txt' else _pick(json.loads(text))
    except (UnicodeDecodeError, ValueError, KeyError) as error:
      raise BadExample(f'caption {path}: {error}') from error


def _class_of(name: bytes) -> str:
  """Returns the first folder of a relative path, '' where there is none."""
  head, slash, _ = name.partition(b'/')
  return os.fsdecode(head) if slash else ''


def _list_images(root: str) -> list[tuple[bytes, int]]:
  """Returns (path under root, kind of caption file) of each image, sorted."""
  found = []
  for base, folders, files in os.walk(root, followlinks=True):
    folders[:] = [name for name in folders if not name.startswith('.')]
    files = [name for name in files if not name.startswith('.')]
    inside = os.path.relpath(base, root)
    kinds = {
      os.path.splitext(name)[0]: _CAPTION_SUFFIXES.index(suffix)
      for suffix in _CAPTION_SUFFIXES[1:]
      for name in files
      if name.endswith(suffix)
    }
    for name in files:
      if name.lower().endswith(IMAGE_SUFFIXES):
        path = name if inside == '.' else f'{inside}/{name}'
        kind = kinds.get(os.path.splitext(name)[0], 0)
        found.append((os.fsencode(path), kind))
  return sorted(found)


def _read_table(root: str) -> dict[str, str]:
  """Reads the captions of a metadata table: file name to caption."""
  for table in _TABLES:
    path = os.path.join(root, table)
    if not os.path.exists(path):
      continue
    with open(path, encoding='utf-8', newline='') as file:
      if table.endswith('.csv'):
        rows = list(csv.DictReader(file))
      else:
        rows = [json.loads(line) for line in file if line.strip()]
    try:
      return {row['file_name']: _pick(row) for row in rows}
    except KeyError as error:
      raise ValueError(
        f"{path}: expected the columns 'file_name' and one of "
        f'{", ".join(_CAPTION_KEYS)}; {error} is missing'
      ) from error
  return {}


def _pick(value: Any) -> str:
  """Returns the caption in what a JSON file or a row of a table held."""
  if isinstance(value, str):
    return value.strip()
  for key in _CAPTION_KEYS:
    if isinstance(value, dict) and isinstance(value.get(key), str):
      return value[key].strip()
  raise KeyError(' or '.join(_CAPTION_KEYS))
