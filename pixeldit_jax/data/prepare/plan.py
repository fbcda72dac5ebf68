"""What a preparation will write, and how long it takes: from a sample."""

import dataclasses
import datetime
import math
import time

from pixeldit_jax.data.prepare.write_shard import (
  PrepareSettings,
  WriteImages,
  empty_report,
)
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError

_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is expected of a preparation.

  Attributes:
    examples: in the source.
    shards: their number.
    measured: examples of the sample.
    left_out: of those.
    bytes_each: of a record, on average.
    seconds_each: of one core of this machine, to make it.
  """

  examples: int
  shards: int
  measured: int
  left_out: int
  bytes_each: float
  seconds_each: float

  @property
  def bytes(self) -> int:
    """Of all shards: ArrayRecord fills blocks, and ends with another."""
    shard = self.examples * self.bytes_each / self.shards
    return self.shards * (math.ceil(shard / _BLOCK) + 1) * _BLOCK

  def describe(self, cores: int, price: float = 0.0) -> str:
    """Returns for people what `cores` will take.

    Args:
      cores: that are at work, each as fast as one of this machine.
      price: of an hour of one core; 0 leaves the cost out.
    """
    size = self.bytes
    seconds = self.examples * self.seconds_each
    left = datetime.timedelta(seconds=round(seconds / cores))
    lines = [
      f'{self.examples:,} examples in {self.shards:,} shards',
      f'{size / 1e9:,.3f} GB, {self.bytes_each / 1e3:,.1f} kB each',
      f'{left} on {cores} cores like those of this machine '
      f'({seconds / 3600:,.3f} hours of one)',
    ]
    if price:
      lines.append(f'cost {seconds / 3600 * price:,.2f}')
    lines.append(
      f'measured on {self.measured}, of which {self.left_out} cannot be used'
    )
    return '\n'.join(lines)


def plan(
  settings: PrepareSettings, most: int = 256, seconds: float = 20.0
) -> Plan:
  """Makes records of a sample, and writes nothing.

  Args:
    settings: what would be written.
    most: examples of the sample, spread evenly over the source.
    seconds: after which no further one is made.

  Raises:
    UserError: the source is unusable.
  """
  source = open_source(settings.source)
  count = len(source)
  if not count:
    raise UserError(f'{settings.source}: there is no example')
  spans = settings.spans(count)
  task = WriteImages(settings, source, '', (), spans)
  report, size, tried = empty_report(), 0, 0
  begin = time.perf_counter()
  most = min(most, count)
  for k in range(most):
    # Strides of the golden section spread even the first few evenly.
    example = int(k * 0.6180339887 % 1 * count) if most < count else k
    size += sum(map(len, task.records([example], report)))
    tried += 1
    if time.perf_counter() - begin > seconds:
      break
  return Plan(
    examples=count,
    shards=len(spans),
    measured=tried,
    left_out=len(report['skipped']),
    bytes_each=size / tried,
    seconds_each=(time.perf_counter() - begin) / tried,
  )
