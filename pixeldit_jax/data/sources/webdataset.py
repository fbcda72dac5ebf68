"""Tars of WebDataset, and WIDS indexes of them, read by an index of members.

A sample is what the members of one key hold: `a/b.jpg`, `a/b.cls` and
`a/b.json` are the fields of the key `a/b`. A key ends at the first dot of the
base name, as WebDataset has it, so that `1.5_x.jpg` is of the key `1`; unlike
WebDataset, members of a key need not be neighbours.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeldit_jax import files as whole_files
from pixeldit_jax.data.sources import (
  byte_index,
  columns,
  data_files,
  indexed,
  tar_members,
)
from pixeldit_jax.data.sources.byte_index import DAMAGED, PLAIN, Part
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.data.sources.tar_members import Member
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images.image_files import IMAGE_SUFFIXES

SUFFIXES = ('.tar', '.tar.gz', '.tgz', '.tar.zst', '.tar.bz2')
WIDS = 'wids-shard-index-v1'
_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_META = re.compile(r'__[^/]*__(/|$)')  # of the archive itself
_LABELS = ('cls', 'label', 'class')
_LABELS_IN_JSON = ('label', 'cls', 'class_id', 'class')
_TEXTS = ('txt', 'caption', 'text', 'prompt')


class WebDatasetSource(indexed.IndexedSource):
  """The samples of tars, in the order of the tars and of their first members.

  Args:
    spec: a tar, a folder, a glob, a pattern as shard-{00000..00009}.tar, or a
      WIDS index; perhaps with options: ?split=train, and ?image=seg.png,
      ?label=json.class and ?caption=txt,json.long to choose fields, or values
      in the JSON of a sample.

  Raises:
    UserError: if a tar is cut short, damaged or compressed, has a name twice,
      or no sample has a picture.
  """

  def __init__(self, spec: str):
    path, options = data_files.parse(spec, ('split', *columns.OPTIONS))
    expected = {}
    if path.endswith('.json'):
      expected = read_wids(path)
      paths = list(expected)
    else:
      paths = data_files.find(path, SUFFIXES, options.pop('split', None))
    index = open_index(
      'webdataset',
      paths,
      functools.partial(scan, options=options, expected=expected),
      options,
    )
    if not len(index):
      raise UserError(
        f'data source wds:{spec}: no sample has a picture, a member as key.jpg '
        f'({", ".join(_IMAGES)}). ' + '; '.join(index.meta['notes'])
      )
    super().__init__(index, f'wds:{spec}')
    self._md5_sums = {
      path: shard['md5sum']
      for path, shard in expected.items()
      if 'md5sum' in shard
    }

  def _compare_checksums(self, path: str) -> None:
    """Compares that of a tar with the WIDS index, if there is one."""
    wanted = self._md5_sums.get(path)
    if wanted is not None:
      with open(path, 'rb') as file:
        found = hashlib.file_digest(file, 'md5').hexdigest()
      if found != wanted:
        raise UserError(f'{path} is damaged: its MD5 is not that of the index')


def read_wids(path: str) -> dict[str, dict[str, Any]]:
  """Returns the shards of a WIDS index: path to what the index says of it.

  Raises:
    UserError: if it is no such index, or a shard is absent or of another size.
  """
  if not os.path.exists(path):
    raise MissingFileError(f'data source: no file {path!r}')
  about = whole_files.read_json(path)
  if about.get('__kind__') != WIDS or about.get('wids_version') != 1:
    raise UserError(
      f'{path} is no WIDS index: expected {WIDS!r} of wids_version 1, got '
      f'{about.get("__kind__")!r} and {about.get("wids_version")!r}'
    )
  base = about.get('base_path') or os.path.dirname(path)
  shards = {}
  for part in (about, *about.get('datasets', ())):
    for shard in part.get('shardlist', ()):
      url = str(shard['url']).removeprefix('file:')
      if ':' in url.split('/')[0]:
        raise UserError(
          f'{path}: {url} is not on this machine; download the shards and give '
          'an index with their paths'
        )
      name = os.path.abspath(
        os.path.join(os.path.dirname(path), part.get('base_path') or base, url)
      )
      size = os.path.getsize(name) if os.path.exists(name) else 'no'
      if size != shard.get('filesize', size) or size == 'no':
        raise MissingFileError(
          f'{name} has {size} bytes, {shard.get("filesize", "some")} are '
          f'expected by {path}: the copy is incomplete'
        )
      shards[name] = shard
  if not shards:
    raise UserError(f'{path} lists no shard')
  return shards


def scan(path: str, options: dict[str, str], expected: dict[str, Any]) -> Part:
  """Returns the part of a tar: its samples that have a picture."""
  samples, apart = group(path)
  wanted = expected.get(path, {}).get('nsamples', len(samples))
  if wanted != len(samples):
    raise UserError(
      f'{path} has {len(samples)} samples, not {wanted} as its index says'
    )
  title = os.path.basename(path)
  kept = _Rows(path, options)
  without, merged = [], []
  for key, fields in samples.items():
    image = _choose_image(fields, options.get('image'))
    if image:
      kept.add(key, fields, image)
    elif any(field.endswith(IMAGE_SUFFIXES) for field in fields):
      merged.append(f'{title}/{key} ({", ".join(fields)})')
    else:
      without.append(f'{title}/{key}')
  part = kept.finish()
  part.note(
    'keys have members that do not follow each other: they are joined, while '
    'WebDataset makes several samples of them',
    [f'{title}/{key}' for key in apart],
  )
  part.note(
    'keys have several pictures and are left out, as a key ends at the first '
    'dot of a name: write other names, or choose one by ?image=...',
    merged,
  )
  part.note('samples have no picture and are left out', without)
  return part


def group(path: str) -> tuple[dict[str, dict[str, Member]], list[str]]:
  """Returns the members of a tar by key and field.

  The second result are the keys whose members do not follow each other.

  Raises:
    UserError: see `tar_members.scan`; or if a member is there twice.
  """
  samples: dict[str, dict[str, Member]] = {}
  apart: dict[str, None] = {}
  last = ''
  for member in tar_members.scan(path):
    name = member.name.removeprefix('./')
    folder, slash, base = name.rpartition('/')
    stem, dot, field = base.partition('.')
    if not dot or not stem or _META.match(name):
      continue
    key, field = folder + slash + stem, field.lower()
    if key != last and key in samples:
      apart[key] = None
    last = key
    fields = samples.setdefault(key, {})
    if field in fields:
      raise UserError(f'{path} has {member.name} twice')
    fields[field] = member
  return samples, list(apart)


def _choose_image(fields: dict[str, Member], wanted: str | None) -> str:
  """Returns the field of the picture, '' if there is none, or no telling."""
  if wanted:
    return wanted if wanted in fields else ''
  for field in _IMAGES:
    if field in fields:
      return field
  found = [field for field in fields if field.endswith(IMAGE_SUFFIXES)]
  return found[0] if len(found) == 1 else ''


@dataclasses.dataclass
class _Rows:
  """Collects the samples of a tar."""

  path: str
  options: dict[str, str]

  def __post_init__(self):
    self._names, self._images, self._labels = [], [], []
    self._captions: list[bytes] = []
    self._damaged: list[int] = []  # rows whose JSON cannot be read
    self._from_json = False

  def add(self, key: str, fields: dict[str, Member], image: str):
    """Adds a sample; its small members are read."""
    row = len(self._names)
    values = _Values(self.path, fields)
    self._names.append(key)
    self._images.append(fields[image])
    self._labels.append(self._label_of(values))
    self._captions.append(self._captions_of(values))
    if values.damaged:
      self._damaged.append(row)

  def _label_of(self, values: '_Values') -> str | None:
    wanted = self.options.get('label')
    names = (*_LABELS, *(f'json.{name}' for name in _LABELS_IN_JSON))
    if wanted is not None:
      names = (wanted,) if wanted else ()
    for name in names:
      value = values.get(name)
      if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip()
    return None

  def _captions_of(self, values: '_Values') -> bytes:
    wanted = self.options.get('caption')
    if wanted is not None:
      names = [name for name in wanted.split(',') if name]
      given = {name: values.get(name) for name in names}
    else:
      given = {'json': values.get('json')}
    try:
      found = columns.parse_captions(given, len(given) > 1)
      self._from_json |= bool(found) and wanted is None
    except (KeyError, ValueError):  # JSON of other things
      found = []
    if not found and wanted is None:
      texts = [values.get(name) for name in _TEXTS]
      found = columns.parse_captions(
        {'txt': next((text for text in texts if text), None)}, False
      )
    return columns.pack_captions(found)

  def finish(self) -> Part:
    """Returns the part of the tar."""
    storage = np.full(len(self._names), PLAIN)
    if self._from_json:  # elsewhere the JSON is not needed
      storage[self._damaged] = DAMAGED
    names, name_end = byte_index.pack_texts(self._names)
    part = Part(
      rows={
        'storage': storage,
        'offset': np.array([m.offset for m in self._images], np.int64),
        'size': np.array([m.size for m in self._images], np.int64),
        'name_end': name_end,
      },
      blobs={'names': names},
    )
    columns.add_labels(part, _as_numbers(self._labels))
    columns.add_captions(part, self._captions)
    return part


def _as_numbers(
  labels: Sequence[str | None],
) -> Sequence[int | str | None]:
  """Returns labels as numbers, if all of them are."""
  given = [label for label in labels if label is not None]
  if not all(label.lstrip('-').isdecimal() for label in given):
    return labels
  return [None if label is None else int(label) for label in labels]


class _Values:
  """What the small members of a sample hold, read when they are asked for."""

  def __init__(self, path: str, fields: dict[str, Member]):
    self._path, self._fields = path, fields
    self._json: Any = None
    self.damaged = False

  def get(self, name: str) -> Any:
    """Returns a field's text; of 'json' what it says, of 'json.x' its 'x'."""
    field, dot, key = name.partition('.')
    if field == 'json' and name not in self._fields:
      inside = self.get('json') if dot else None
      return inside.get(key) if isinstance(inside, dict) else None
    if name not in self._fields:
      return None
    if name == 'json' and self._json is not None:
      return self._json
    member = self._fields[name]
    data = indexed.read_range(self._path, member.offset, member.size)
    try:
      text = data.decode('utf-8-sig')
      if name != 'json':
        return text
      self._json = json.loads(text)
      return self._json
    except ValueError:  # no UTF-8, or no JSON
      self.damaged = True
      return None
