"""The layouts of EDM2 and REPA: images and a `dataset.json` of labels.

`dataset.json` is {"labels": [["00000/img00000000.png", 0], ...]}, or the same
as an object; a label is a class number or one-hot, and null where there are no
classes. It is with the images in a folder, in a zip (perhaps in one folder of
it), or in `images.h5` (one data set of bytes per file; `images_h5.json` next to
it lists their names).
"""

import json
import logging
import os
import struct
import threading
import zipfile
import zlib
from typing import Any

import numpy as np

from pixeldit_jax import files
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
  one_line,
)
from pixeldit_jax.images.image_files import is_image, walk

log = logging.getLogger(__name__)

_INDEX = 'dataset.json'
# What h5py raises for damaged files.
_H5_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError)


class Edm2Source(Source):
  """Images that `dataset.json` labels, in the order of their names.

  The classes are named by their numbers: the layout has no names. Images
  without a label are left out with a warning; where labels are null, no image
  has a class.

  Args:
    path: a folder with `dataset.json` (or whose `images` folder has it), a
      zip, an `.h5` file, or a folder with `images.h5`.

  Raises:
    UserError: if labels are missing or contradict, or a labelled file is not
      there.
  """

  def __init__(self, path: str):
    self._files = _open_files(path)
    there = set(self._files.names())
    names = {name for name in there if is_image(name)}
    try:
      index = self._files.read(_INDEX)
    except BadExample as error:
      raise UserError(f'{path} is damaged: {error}') from error
    labels = _read_labels(path, index)
    if labels is None:
      labels = dict.fromkeys(names, -1)
      if not labels:
        raise UserError(f'{path} holds no images.')
    others = sorted((labels.keys() & there) - names)
    if others:
      raise UserError(
        f'{path}: {len(others)} files of {_INDEX} are no images by their names '
        f'({", ".join(others[:5])}): give the folder of the images, not of '
        'latents'
      )
    missing = sorted(labels.keys() - names)
    if missing:
      raise UserError(
        f'{path}: {len(missing)} files of {_INDEX} are not there, the copy is '
        f'incomplete: {", ".join(missing[:5])}'
      )
    unlabelled = sorted(names - labels.keys())
    if unlabelled:
      log.warning(
        '%s: left out %d images without a label: %s',
        *(path, len(unlabelled), ', '.join(unlabelled[:20])),
      )
    kept = sorted(labels)
    self._names = np.array([name.encode() for name in kept], 'S')
    self._labels = np.array([labels[name] for name in kept], np.int32)
    self.class_names = tuple(str(k) for k in range(self._labels.max() + 1))

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> Example:
    name = self._names[index].decode()
    image = self._files.read(name)
    return {'image': image, 'label': int(self._labels[index]), 'name': name}


def _open_files(path: str) -> '_Folder | _Zip | _H5':
  """Finds out which of the layouts is at `path`."""
  if os.path.isfile(path):
    return _H5(path) if path.endswith(('.h5', '.hdf5')) else _Zip(path)
  if not os.path.isdir(path):
    raise MissingFileError(f'data source: no file or folder {path!r}')
  for folder in (path, os.path.join(path, 'images')):
    if os.path.exists(os.path.join(folder, _INDEX)):
      return _Folder(folder)
  for name, kind in (('images.h5', _H5), ('images.zip', _Zip)):
    if os.path.exists(os.path.join(path, name)):
      return kind(os.path.join(path, name))
  raise UserError(
    f'data source: found no {_INDEX}, images.h5 or images.zip in {path!r}'
  )


def _read_labels(path: str, data: bytes) -> dict[str, int] | None:
  """The labels by file name, None where they are null.

  Raises:
    UserError: a label that is not one class.
  """
  try:
    rows = json.loads(data)['labels']
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path}: {_INDEX} has no 'labels': {error}") from error
  if rows is None:
    return None
  if not rows:
    raise UserError(f'{path}: {_INDEX} labels no file')
  labels: dict[str, int] = {}
  for name, given in rows.items() if isinstance(rows, dict) else rows:
    name = name.replace('\\', '/')  # written on Windows
    label = _class_of(given)
    if label is None:
      raise UserError(
        f'{path}: the label of {name!r} must be a class number or one-hot, got '
        f'{given!r}'
      )
    if labels.setdefault(name, label) != label:
      raise UserError(
        f'{path}: {name!r} has two labels, {labels[name]} and {label}'
      )
  return labels


def _class_of(label: Any) -> int | None:
  """The class of a label; None if it is not one."""
  if isinstance(label, list):
    ones = [k for k, value in enumerate(label) if value == 1]
    others = [value for value in label if value not in (0, 1)]
    return ones[0] if len(ones) == 1 and not others else None
  is_class = isinstance(label, int) and not isinstance(label, bool)
  return label if is_class and label >= 0 else None


class _Folder:
  """Files of a folder."""

  def __init__(self, path: str):
    self._path = os.path.abspath(path)

  def names(self) -> list[str]:
    return [
      f'{inside}/{name}' if inside else name
      for inside, there in walk(self._path)
      for name in there
    ]

  def read(self, name: str) -> bytes:
    return files.read_limited(os.path.join(self._path, name))


class _Zip:
  """Members of a zip, read by position: no lock, and little to pickle.

  `zipfile` parses the directory once; its own objects for a million members
  would take a gigabyte in every worker.
  """

  def __init__(self, path: str):
    self._path = os.path.abspath(path)
    try:
      with zipfile.ZipFile(path) as file:
        members = [m for m in file.infolist() if not m.is_dir()]
    # Damaged headers: impossible versions, names that are no text.
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
      raise UserError(f'{path} is no zip or is cut short: {error}') from error
    for member in members:
      if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
          f'{path}: {member.filename!r} is compressed by another method than '
          'deflate; write the zip again, stored'
        )
      files.check_size(member.file_size, f'{path}: {member.filename!r}')
    top = _top_folder([m.filename for m in members])
    for member in members:
      member.filename = member.filename.removeprefix(top)
    members.sort(key=lambda member: member.filename.encode())
    self._names = np.array([m.filename.encode() for m in members], 'S')
    rows = [
      (m.header_offset, m.compress_size, m.compress_type, m.CRC, m.file_size)
      for m in members
    ]
    self._table = np.array(rows, np.int64).reshape(-1, 5)
    twice = np.flatnonzero(self._names[1:] == self._names[:-1])
    if len(twice):
      raise UserError(
        f'{path}: {len(twice)} names occur twice: '
        + ', '.join(self._names[i].decode() for i in twice[:5])
      )

  def names(self) -> list[str]:
    return [name.decode() for name in self._names]

  def read(self, name: str) -> bytes:
    row = int(np.searchsorted(self._names, name.encode()))
    if row == len(self._names) or self._names[row] != name.encode():
      raise MissingFileError(f'{self._path} has no member {name!r}')
    offset, size, method, crc, whole = self._table[row].tolist()
    try:
      with open(self._path, 'rb') as file:
        file.seek(offset)
        # The local header repeats the name, with an extra field of its own.
        lengths = struct.unpack('<26xHH', file.read(30))
        file.seek(sum(lengths), os.SEEK_CUR)
        data = file.read(size)
    except FileNotFoundError:
      raise
    except (OSError, ValueError, struct.error) as error:
      raise BadExample(f'{name}: {error}') from error
    try:
      if method != zipfile.ZIP_STORED:
        # What is longer than it says has another checksum.
        data = zlib.decompressobj(-15).decompress(data, max(1, whole))
    except zlib.error as error:
      raise BadExample(f'{name}: {error}') from error
    if zlib.crc32(data) != crc:
      raise BadExample(f'{name}: the checksum in the zip does not match')
    return data


def _top_folder(names: list[str]) -> str:
  """'images/' where that folder of a zip holds the index; '' at the top."""
  tops = [name.removesuffix(_INDEX) for name in names if name.endswith(_INDEX)]
  one = tops[0] if len(tops) == 1 else ''
  return one if one.count('/') == 1 and one.endswith('/') else ''


class _H5:
  """Data sets of an HDF5 file, each the bytes of one file."""

  def __init__(self, path: str):
    self._path = os.path.abspath(path)
    self._open()

  def _open(self):
    try:
      import h5py
    except ImportError as error:
      raise MissingPackageError(
        f'{self._path} needs h5py: pip install h5py'
      ) from error
    try:
      self._file = h5py.File(self._path, 'r')
    except OSError as error:
      raise UserError(
        f'{self._path} is no HDF5 file or is cut short: {error}'
      ) from error
    self._lock = threading.Lock()

  def __getstate__(self):
    return self._path

  def __setstate__(self, path):
    self._path = path
    self._open()

  def names(self) -> list[str]:
    index = os.path.splitext(self._path)[0] + '_h5.json'
    if os.path.exists(index):
      with open(index, encoding='utf-8') as file:
        return [name for name in json.load(file) if self._holds(name)]
    import h5py

    names = []
    try:
      self._file.visititems(
        lambda name, item: (
          names.append(name) if isinstance(item, h5py.Dataset) else None
        )
      )
    except _H5_DAMAGE as error:
      raise UserError(f'{self._path} is damaged: {one_line(error)}') from error
    return names

  def _holds(self, name: str) -> bool:
    """Whether a name is in this file, not behind a link to another one.

    Raises:
      UserError: a link or a data set that leads to another file.
    """
    import h5py

    parts = name.strip('/').split('/')
    for end in range(1, len(parts) + 1):
      path = '/'.join(parts[:end])
      link = self._file.get(path, getlink=True)
      if link is None:
        return False
      if isinstance(link, h5py.ExternalLink):
        raise UserError(
          f'{self._path}: {path!a} is a link to another file, which is not '
          'followed; copy its data into this file (h5repack, h5copy).'
        )
    item = self._file[name]
    if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
      raise UserError(
        f'{self._path}: the data of {name!a} are stored in another file, which '
        'is not read; copy them into this one (h5repack).'
      )
    return True

  def read(self, name: str) -> bytes:
    try:
      with self._lock:
        if not self._holds(name):
          raise KeyError(name)
        found = self._file[name]
        files.check_size(found.nbytes, f'{self._path}: {name!a}')
        return np.asarray(found).tobytes()
    except KeyError as error:
      raise MissingFileError(f'{self._path} has no {name!r}') from error
    except UserError:
      raise
    except _H5_DAMAGE as error:
      raise BadExample(f'{name}: {one_line(error)}') from error
