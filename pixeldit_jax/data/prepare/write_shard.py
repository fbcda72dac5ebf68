"""One process's part of the preparation: a range of the source to one shard."""

import dataclasses
import io
import json
import multiprocessing
import os
import threading
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline import aspect_ratio_buckets
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.sources import shards
from pixeldit_jax.errors import UserError

REPORTS = '.prepare'  # folder of the reports, inside the output folder


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the bytes of the prepared data.

  Attributes:
    source: spec of the source (see `open_source`).
    resolution: side of the squares; with `bucketed`, the family of buckets.
    bucketed: keep the aspect ratio, in the buckets of `buckets.family`.
    encoding: 'png' (lossless) or 'jpeg'.
    quality: of JPEG, 1..100.
    shard_size: examples per shard; 0 means about 64 shards, or more of 2,048
      examples each.
  """

  source: str
  resolution: int
  bucketed: bool = False
  encoding: str = 'png'
  quality: int = 95
  shard_size: int = 0

  def __post_init__(self):
    if self.resolution < 1:
      raise UserError(f'resolution must be 1 or more, got {self.resolution}')
    if self.encoding not in ('png', 'jpeg'):
      raise UserError(f"encoding must be 'png' or 'jpeg': {self.encoding!r}")
    if not 1 <= self.quality <= 100:
      raise UserError(f'quality must be in 1..100, got {self.quality}')
    if self.shard_size < 0:
      raise UserError(f'shard_size must be 0 or more, got {self.shard_size}')

  def shapes(self) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of each bucket; one square without buckets."""
    if self.bucketed:
      return aspect_ratio_buckets.family(self.resolution)
    return ((self.resolution, self.resolution),)


def report_path(out: str, index: int) -> str:
  """Returns where the report of a shard is: once there, the shard is done."""
  return os.path.join(out, REPORTS, f'{index:05d}.json')


_process: dict[str, Any] = {}  # what this process of the pool works on


def begin_process(settings: Settings, source: Source, out: str):
  """Sets up a process of the pool, and has it end with its parent."""

  def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)  # the pool's queue would keep an orphan waiting for ever

  threading.Thread(target=end_with_parent, daemon=True).start()
  _process.update(settings=settings, source=source, out=out)


def write_shard(name: str, index: int, start: int, end: int) -> dict[str, Any]:
  """Writes source[start:end] as the shard `name`; returns its report."""
  settings, source, out = (_process[k] for k in ('settings', 'source', 'out'))
  report = {'examples': 0, 'classes': {}, 'captions': 0}
  report |= {'enlarged': 0, 'skipped': [], 'buckets': []}
  path = os.path.join(out, name)
  with files.write_records(path) as writer:
    for i in range(start, end):
      at = f'example {i}'
      try:
        example = source[i]
        at = example['name']
        record = _convert(example, settings, report)
      except (transforms.BadExample, OSError) as error:
        report['skipped'].append({'name': at, 'reason': str(error)})
      else:
        writer.write(record)
  report |= files.entry_of(path)
  files.write_bytes(report_path(out, index), json.dumps(report).encode())
  return report


def _convert(
  example: Example, settings: Settings, report: dict[str, Any]
) -> bytes:
  """Returns the record of an example and counts it in the report."""
  image = transforms.decode(example['image'])
  shapes = settings.shapes()
  bucket = aspect_ratio_buckets.nearest(image.height, image.width, shapes)
  height, width = shapes[bucket]
  encoded = _encode(transforms.crop(image, height, width), settings)
  header = {key: example[key] for key in ('name', 'label')}
  # Shards prepared from shards keep the size of the first original.
  original = example.get('size', (image.height, image.width))
  header['height'], header['width'] = original
  header['bucket'] = bucket
  if 'captions' in example:
    header['captions'] = example['captions']
  # Counted only now, when nothing can fail any more.
  label = str(example['label'])
  report['examples'] += 1
  report['classes'][label] = report['classes'].get(label, 0) + 1
  report['captions'] += bool(example.get('captions'))
  report['enlarged'] += image.height < height or image.width < width
  if settings.bucketed:
    report['buckets'].append(bucket)
  return shards.pack(header, encoded)


def _encode(pixels: np.ndarray, settings: Settings) -> bytes:
  buffer = io.BytesIO()
  image = Image.fromarray(pixels)
  if settings.encoding == 'png':
    # Level 1 takes a third of the default's time, for 7% more bytes.
    image.save(buffer, 'PNG', compress_level=1)
  else:
    image.save(buffer, 'JPEG', quality=settings.quality, subsampling=0)
  return buffer.getvalue()
