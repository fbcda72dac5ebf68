"""Shards of MosaicML's streaming (MDS), read in place.

`index.json` says the columns, how each is encoded, and the size and checksums
of each shard. Compressed shards are decompressed to a cache, once.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
from typing import Any

import numpy as np
import pyarrow as pa

from pixeldit_jax import files as whole_files
from pixeldit_jax.data.sources import columns, data_files, indexed, mds_shard
from pixeldit_jax.data.sources.byte_index import PLAIN, Part
from pixeldit_jax.data.sources.index_builder import open_index
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

INDEX = 'index.json'
_VERSION = 2
_CODECS = {'zstd': 'zstd', 'gz': 'gzip', 'br': 'brotli', 'bz2': 'bz2'}


class MdsSource(indexed.IndexedSource):
  """The samples of MDS shards, in the order of `index.json`.

  Args:
    spec: the folder with `index.json`, or of splits that have one; perhaps
      ?split=val&image=img&label=y&caption=text (see `columns`).

  Raises:
    UserError: if shards are missing, cut short or of another version, or no
      column is an image.
  """

  def __init__(self, spec: str):
    path, options = data_files.parse(spec, ('split', *columns.OPTIONS))
    shards = read_index(path, options.get('split'))
    first = next(iter(shards.values()))
    encodings = dict(zip(first['column_names'], first['column_encodings']))
    kinds = {name: _kind_of(held) for name, held in encodings.items()}
    chosen = columns.choose(kinds, options, path)
    if kinds[chosen.image] not in (columns.IMAGE, columns.BYTES):
      raise UserError(
        f'{path}: the column {chosen.image!r}, {encodings[chosen.image]}, is '
        'no image'
      )
    index = open_index(
      'mds',
      list(shards),
      functools.partial(scan, chosen=chosen, shards=shards),
      dataclasses.asdict(chosen) | {'encoding': encodings[chosen.image]},
    )
    super().__init__(index, f'mds:{spec}')
    self._shards = shards

  def _compare_checksums(self, path: str) -> None:
    """Compares that of the shard with `index.json`."""
    _compare_hashes(path, self._shards[path]['raw_data'].get('hashes') or {})

  def _image(self, index: int, path: str) -> bytes | UInt8[np.ndarray, 'H W C']:
    data = super()._image(index, path)
    return mds_shard.decode(data, self.settings['encoding'])


def read_index(path: str, split: str | None) -> dict[str, dict[str, Any]]:
  """Returns the shards of a folder: path to what `index.json` says of each.

  Raises:
    UserError: if it is of another version, or shards are missing or cut short.
  """
  folder = _find_folder(path, split)
  name = os.path.join(folder, INDEX)
  about = whole_files.read_json(name)
  if about.get('version') != _VERSION or not isinstance(
    about.get('shards'), list
  ):
    raise UserError(
      f'{name} is of version {about.get("version")!r}; expected shards of '
      f'version {_VERSION}'
    )
  found = {}
  for shard in about['shards']:
    try:
      if shard['format'] != 'mds' or shard['version'] != _VERSION:
        raise UserError(
          f'{name} has shards of format {shard["format"]!r}, version '
          f'{shard["version"]!r}; expected mds, version {_VERSION}: write them '
          'again with streaming.MDSWriter'
        )
      parts = [shard[k] for k in ('raw_data', 'zip_data') if shard.get(k)]
      whole_files.check_inside((part['basename'] for part in parts), name)
      found[_raw_path(folder, shard)] = shard
    except (KeyError, TypeError) as error:
      raise UserError(f'{name} is damaged: a shard lacks {error}') from error
  if not found:
    raise UserError(f'{name} lists no shard')
  return found


def _find_folder(path: str, split: str | None) -> str:
  if not os.path.isdir(path):
    raise MissingFileError(f'data source: no folder {path!r}')
  if os.path.exists(os.path.join(path, INDEX)):
    return path
  splits = sorted(
    name
    for name in os.listdir(path)
    if os.path.exists(os.path.join(path, name, INDEX))
  )
  if not splits:
    raise MissingFileError(f'data source: no {INDEX} in {path!r}')
  if split is not None and split in splits:
    return os.path.join(path, split)
  chosen = data_files.take_split(splits, '', split)
  if len(chosen) != 1:
    raise UserError(
      f'data source: {path!r} has {", ".join(splits)}: choose one by ?split=...'
    )
  return os.path.join(path, chosen[0])


def _raw_path(folder: str, shard: dict[str, Any]) -> str:
  """Returns the path of a shard, decompressed if need be."""
  raw, packed = shard['raw_data'], shard.get('zip_data')
  path = os.path.abspath(os.path.join(folder, raw['basename']))
  if not os.path.exists(path) and packed:
    source = os.path.abspath(os.path.join(folder, packed['basename']))
    _check_size(source, packed['bytes'])
    return _decompress(source, shard)
  _check_size(path, raw['bytes'])
  return path


def _check_size(path: str, expected: int):
  size = os.path.getsize(path) if os.path.exists(path) else 'no'
  if size != expected:
    raise MissingFileError(
      f'{path} has {size} bytes, not {expected}: the copy is incomplete'
    )


def _decompress(source: str, shard: dict[str, Any]) -> str:
  """Decompresses a shard to the cache, unless it is there; returns where."""
  status = os.stat(source)
  key = json.dumps([source, status.st_size, status.st_mtime_ns])
  raw = shard['raw_data']
  digest = hashlib.sha256(key.encode()).hexdigest()[:16]
  path = (
    whole_files.cache_folder('mds')
    / f'{digest}-{os.path.basename(raw["basename"])}'
  )
  if path.exists():
    return os.fspath(path)
  method = str(shard.get('compression')).partition(':')[0]
  log.info('decompressing %s to %s', source, path)
  whole_files.check_size(raw['bytes'], source)
  try:
    with open(source, 'rb') as file:
      if method == 'snappy':
        data = pa.decompress(file.read(), raw['bytes'], method, asbytes=True)
      elif method in _CODECS:
        data = pa.CompressedInputStream(file, _CODECS[method]).read(
          raw['bytes'] + 1
        )
      else:
        raise UserError(f'{source}: the compression {method!r} is not known')
  except (OSError, pa.ArrowInvalid) as error:
    raise UserError(f'{source} is damaged: {error}') from error
  if len(data) != raw['bytes']:
    raise UserError(
      f'{source} is damaged: it gives {len(data)} bytes, not {raw["bytes"]}'
    )
  _compare_hashes(source, raw.get('hashes') or {}, data)
  whole_files.write_bytes(path, data)
  return os.fspath(path)


def _compare_hashes(
  path: str, hashes: dict[str, str], data: bytes | None = None
):
  """Raises UserError if the checksum of a shard differs from its index."""
  for method, wanted in hashes.items():
    if method in hashlib.algorithms_available:
      new = functools.partial(hashlib.new, method)
    else:
      try:
        import xxhash

        new = getattr(xxhash, method)
      except (ImportError, AttributeError):
        log.warning('%s: %s is not known, not compared', path, method)
        continue
    if data is None:
      with open(path, 'rb') as file:
        data = file.read()
    if new(data).hexdigest() != wanted:
      raise UserError(f'{path} is damaged: its {method} is not that of {INDEX}')


def _kind_of(encoding: str) -> str:
  """Returns what a column holds, for `columns.choose`."""
  if encoding in ('jpeg', 'png', 'pil'):
    return columns.IMAGE
  if encoding == 'bytes' or encoding.startswith('ndarray'):
    return columns.BYTES
  if encoding in mds_shard.NUMBERS or encoding == 'str_int':
    return columns.INTEGER
  return columns.TEXT if encoding in ('str', 'json') else columns.OTHER


def scan(
  path: str, chosen: columns.Columns, shards: dict[str, dict[str, Any]]
) -> Part:
  """Returns the part of a shard: where its pictures are, labels, captions."""
  shard = shards[path]
  names = shard['column_names']
  wanted = [*filter(None, (chosen.image, chosen.label)), *chosen.captions]
  missing = [name for name in wanted if name not in names]
  if missing:
    raise UserError(
      f'{path} has no column {", ".join(missing)}, as the first shard has; it '
      f'has {", ".join(names)}'
    )
  with open(path, 'rb') as file:
    samples = mds_shard.Samples(path, file.fileno(), shard)
    located, labels, captions = [], [], []
    for spans in samples.locate():
      located.append(spans[chosen.image])
      if chosen.label:
        labels.append(samples.value(chosen.label, spans))
      if chosen.captions:
        row = {name: samples.value(name, spans) for name in chosen.captions}
        captions.append(columns.pack_row(row, path))
  offset, size = np.array(located, np.int64).reshape(-1, 2).T
  part = Part(
    rows={
      'storage': np.full(len(offset), PLAIN),
      'offset': offset,
      'size': size,
    }
  )
  columns.add_labels(part, labels if chosen.label else None)
  columns.add_captions(part, captions if chosen.captions else None)
  return part
