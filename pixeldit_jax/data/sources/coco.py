"""COCO's captions_*.json, with the folder of its pictures."""

import os
from typing import Any

import numpy as np

from pixeldit_jax import files as whole_files
from pixeldit_jax.data.sources import byte_index, columns, data_files, indexed
from pixeldit_jax.data.sources.byte_index import PLAIN, Part
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import MissingFileError, UserError

FILES = 'captions_*.json'


class CocoSource(indexed.IndexedSource):
  """The pictures of a captions_*.json, in the order of their file names.

  Args:
    spec: the JSON, or the folder whose 'annotations' hold it; perhaps
      ?split=val and ?images=/folder, where the pictures are not next to the
      annotations.

  Raises:
    UserError: if it is no such file, or pictures are missing.
  """

  def __init__(self, spec: str):
    path, options = data_files.parse(spec, ('split', 'images'))
    annotations = _find_annotations(path, options.get('split'))
    images = os.path.abspath(
      os.path.expanduser(options.get('images') or _find_images(annotations))
    )
    index = open_index(
      'coco',
      [annotations],
      lambda name: scan(name, images),
      {'images': images},
    )
    super().__init__(index, f'coco:{spec}')

  def _image(self, index: int, path: str) -> bytes:
    name = os.path.join(self.settings['images'], self._index.name_of(index))
    data = whole_files.read_limited(name)
    if not data:
      raise BadExample('the file is empty')
    return data


def _find_annotations(path: str, split: str | None) -> str:
  if os.path.isfile(path):
    return os.path.abspath(path)
  for folder in (os.path.join(path, 'annotations'), path):
    if os.path.isdir(folder):
      names = [
        os.path.join(folder, name)
        for name in sorted(os.listdir(folder))
        if name.startswith('captions_') and name.endswith('.json')
      ]
      if names:
        chosen = data_files.take_split(names, folder, split)
        if len(chosen) > 1:
          listed = ', '.join(map(os.path.basename, chosen))
          raise UserError(
            f'data source: {folder!r} has {listed}: name one of them'
          )
        return os.path.abspath(chosen[0])
  raise MissingFileError(f'data source: no {FILES} in {path!r}')


def _find_images(annotations: str) -> str:
  """Returns the folder 'train2017' of annotations/captions_train2017.json."""
  name = os.path.basename(annotations)
  name = name.removeprefix('captions_').removesuffix('.json')
  above = os.path.dirname(os.path.dirname(annotations))
  tried = [
    os.path.join(above, name),
    os.path.join(above, 'images', name),
    os.path.join(os.path.dirname(annotations), name),
  ]
  for folder in tried:
    if os.path.isdir(folder):
      return folder
  raise MissingFileError(
    f'data source: the pictures of {annotations} are in none of '
    f'{", ".join(tried)}: name their folder by ?images=/folder'
  )


def scan(path: str, images: str) -> Part:
  """Returns the part of an annotation file."""
  about = whole_files.read_json(path)
  names, given = _read(about, path)
  with os.scandir(images) as entries:
    there = {entry.name for entry in entries}
  missing = [
    name
    for name in names
    if name not in there and not os.path.exists(os.path.join(images, name))
  ]
  if missing:
    raise MissingFileError(
      f'{images}: {len(missing)} of the {len(names)} pictures of {path} are '
      f'not there, the copy is incomplete: {", ".join(missing[:5])}'
    )
  block, name_end = byte_index.pack_texts(names)
  part = Part(
    rows={
      'storage': np.full(len(names), PLAIN),
      'offset': np.zeros(len(names), np.int64),
      'size': np.zeros(len(names), np.int64),
      'name_end': name_end,
    },
    blobs={'names': block},
  )
  packed = [columns.pack_row({'caption': texts}, path) for texts in given]
  columns.add_captions(part, packed)
  return part


def _read(
  about: dict[str, Any], path: str
) -> tuple[list[str], list[list[str]]]:
  """Returns the file names, sorted, and the captions of each."""
  try:
    name_of = {item['id']: str(item['file_name']) for item in about['images']}
    captions: dict[str, list[str]] = {name: [] for name in name_of.values()}
    for item in about['annotations']:
      captions[name_of[item['image_id']]].append(item['caption'])
  except (KeyError, TypeError) as error:
    raise UserError(
      f"{path} is no {FILES} of COCO: expected 'images' with 'id' and "
      f"'file_name', and 'annotations' with 'image_id' and 'caption'; {error}"
    ) from error
  if not captions:
    raise UserError(f'{path} lists no picture')
  names = sorted(captions)
  whole_files.check_inside(names, path)
  return names, [captions[name] for name in names]
