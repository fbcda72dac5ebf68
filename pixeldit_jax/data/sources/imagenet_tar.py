"""ILSVRC2012_img_train.tar: a tar of one tar of JPEGs for each class.

The bytes of each picture are in the outer file as they are: nothing is
unpacked. Classes are numbered in the order of their names (wnids), as usual.
"""

import os

import numpy as np

from pixeldit_jax.data.sources import (
  byte_index,
  columns,
  data_files,
  indexed,
  tar_members,
)
from pixeldit_jax.data.sources.byte_index import PLAIN, Part
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.image_files import is_image

NAME = 'ILSVRC2012_img_train.tar'


class ImageNetTarSource(indexed.IndexedSource):
  """The pictures of a tar of class tars, in the order of the tar.

  Args:
    spec: the tar, or a folder that holds it.

  Raises:
    UserError: if it is cut short or damaged, or holds no tars.
  """

  def __init__(self, spec: str):
    path, _ = data_files.parse(spec, ())
    if os.path.isdir(path):
      path = os.path.join(path, NAME)
    paths = data_files.find(path, ('.tar',))
    index = open_index('imagenet_tar', paths, scan, {})
    super().__init__(index, f'imagenet_tar:{spec}')


def scan(path: str) -> Part:
  """Returns the part of an outer tar."""
  names: list[str] = []
  members: list[tar_members.Member] = []
  labels: list[str] = []
  others, empty = [], []
  for outer in tar_members.scan(path):
    stem, suffix = os.path.splitext(os.path.basename(outer.name))
    if suffix != '.tar':
      others.append(outer.name)
      continue
    before = len(names)
    end = outer.offset + outer.size
    for member in tar_members.scan(path, outer.offset, end):
      if not is_image(member.name):
        others.append(f'{outer.name}/{member.name}')
        continue
      names.append(f'{stem}/{member.name}')
      members.append(member)
      labels.append(stem)
    if len(names) == before:
      empty.append(stem)
  if not names:
    raise UserError(
      f'{path} holds no tars of classes, as {NAME} does; unpack others into '
      '<class>/<image> and read them by folder:'
    )
  block, name_end = byte_index.pack_texts(names)
  part = Part(
    rows={
      'storage': np.full(len(names), PLAIN),
      'offset': np.array([m.offset for m in members], np.int64),
      'size': np.array([m.size for m in members], np.int64),
      'name_end': name_end,
    },
    blobs={'names': block},
  )
  columns.add_labels(part, labels)
  # An empty class keeps its number.
  part.label_names = [*(part.label_names or ()), *empty]
  part.note('members are no pictures by their names and are left out', others)
  return part
