"""Writes a range of a source as one shard of prepared images."""

import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.array_records import write_records
from pixeldit_jax.data.pipeline import aspect_ratio_buckets
from pixeldit_jax.data.prepare.shard_job import Report, ShardTask
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.sources import shards
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import UInt8


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
  """What decides the bytes of the prepared data.

  Attributes:
    source: specification of the source (see `open_source`).
    resolution: side of the squares; with `bucketed`, the family of buckets.
    bucketed: keep the aspect ratio, in the buckets of
      `aspect_ratio_buckets.family`.
    encoding: 'png' (lossless) or 'jpeg'.
    quality: of JPEG, 1..100.
    shard_size: examples per shard; 0 means about 64 shards, or more of 2,048
      examples each.
    patch_size: of the network; the sides of buckets are multiples of it.
  """

  source: str
  resolution: int
  bucketed: bool = False
  encoding: str = 'png'
  quality: int = 95
  shard_size: int = 0
  patch_size: int = 16

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
      return aspect_ratio_buckets.family(self.resolution, self.patch_size)
    return ((self.resolution, self.resolution),)

  def stored(self) -> dict[str, Any]:
    """Returns what is compared when a preparation goes on, as JSON values.

    The patch is left out where it changes nothing: preparations begun before
    there was such a setting have sides that are multiples of resolution / 16.
    """
    values = dataclasses.asdict(self)
    unit, rest = divmod(self.resolution, 16)
    before = unit and not rest
    if not self.bucketed or (
      before
      and self.shapes() == aspect_ratio_buckets.family(self.resolution, unit)
    ):
      del values['patch_size']
    return values

  def spans(self, count: int) -> list[range]:
    """Returns the examples of each shard, of `count` in the source."""
    size = self.shard_size or max(1, min(2048, -(-count // 64)))
    return [
      range(start, min(start + size, count)) for start in range(0, count, size)
    ]


def empty_report() -> Report:
  """The report of a shard in which nothing was counted yet."""
  return {
    'examples': 0,
    'classes': {},
    'captions': 0,
    'enlarged': 0,
    'skipped': [],
    'buckets': [],
  }


@dataclasses.dataclass(frozen=True)
class WriteImages(ShardTask):
  """Crops, encodes and writes the images of a shard.

  Attributes:
    settings: size and format of the images.
    source: of the images.
    folder: of the shards.
    shards: their file names.
    spans: the examples of each.
  """

  settings: PrepareSettings
  source: Source
  folder: str
  shards: Sequence[str]
  spans: Sequence[range]

  def write(self, index: int) -> Report:
    report = empty_report()
    path = os.path.join(self.folder, self.shards[index])
    with write_records(path) as writer:
      for record in self.records(self.spans[index], report):
        writer.write(record)
    return report | writer.entry

  def records(self, examples: Iterable[int], report: Report) -> Iterator[bytes]:
    """Yields the records of examples that can be used; counts in the report."""
    for i in examples:
      name = f'example {i}'
      try:
        example = self.source[i]
        name = example['name']
        record = self._convert(example, report)
      except (transforms.BadExample, OSError) as error:
        report['skipped'].append({'name': name, 'reason': str(error)})
      else:
        yield record

  def _convert(self, example: Example, report: Report) -> bytes:
    """Returns the record of an example and counts it in the report."""
    image = transforms.decode(example['image'])
    shapes = self.settings.shapes()
    bucket = aspect_ratio_buckets.nearest(image.height, image.width, shapes)
    height, width = shapes[bucket]
    encoded = self._encode(transforms.crop(image, height, width))
    # Shards prepared from shards keep the size of the first original.
    original = example.get('size', (image.height, image.width))
    header = {
      'name': example['name'],
      'label': example['label'],
      'height': original[0],
      'width': original[1],
      'bucket': bucket,
    }
    if 'captions' in example:
      header['captions'] = example['captions']
    # Counted only now, when nothing can fail any more.
    label = str(example['label'])
    report['examples'] += 1
    report['classes'][label] = report['classes'].get(label, 0) + 1
    report['captions'] += bool(example.get('captions'))
    report['enlarged'] += image.height < height or image.width < width
    if self.settings.bucketed:
      report['buckets'].append(bucket)
    return shards.pack(header, encoded)

  def _encode(self, pixels: UInt8[np.ndarray, 'H W 3']) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if self.settings.encoding == 'png':
      # Level 1 takes a third of the default's time, for 7% more bytes.
      image.save(buffer, 'PNG', compress_level=1)
    else:
      image.save(buffer, 'JPEG', quality=self.settings.quality, subsampling=0)
    return buffer.getvalue()
