"""Reads the TensorBoard events of a run: scalars and pictures by step.

A record is its length (8 bytes), a checksum (4), an `Event` of that length and
another checksum (4); `train.run.tensorboard` writes them.
"""

import dataclasses
import logging
import os
import struct
from collections.abc import Iterator
from typing import Any

from etils import epath

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Events:
  """What a run wrote, each list by rising step.

  Attributes:
    scalars: (step, value) by name.
    images: (step, PNG file) by name.
  """

  scalars: dict[str, list[tuple[int, float]]]
  images: dict[str, list[tuple[int, bytes]]]


def read_events(folder: str | os.PathLike) -> Events:
  """All events below a folder; a start hides those of later steps before it.

  A file that is cut, as after a kill, is read as far as it goes.
  """
  place, found = epath.Path(folder), Events({}, {})
  files = sorted(place.glob('*tfevents*')) if place.is_dir() else []
  for path in files:
    for event in _events_of(path):
      if event.HasField('session_log'):
        _hide(found, event.step)
      for value in event.summary.value:
        if value.HasField('image'):
          png = value.image.encoded_image_string
          found.images.setdefault(value.tag, []).append((event.step, png))
        elif value.HasField('simple_value'):
          point = event.step, value.simple_value
          found.scalars.setdefault(value.tag, []).append(point)
  return found


def _hide(found: Events, step: int) -> None:
  """Forgets what steps wrote that are done again."""
  series: list[list[Any]] = [*found.scalars.values(), *found.images.values()]
  for points in series:
    points[:] = [point for point in points if point[0] < step]


def _events_of(path: epath.Path) -> Iterator[Any]:
  # It imports torch, if that is installed.
  from tensorboardX.proto.event_pb2 import Event

  data, start = path.read_bytes(), 0
  while start + 12 <= len(data):
    (length,) = struct.unpack_from('<Q', data, start)
    end = start + 12 + length
    if end + 4 > len(data):
      log.info('%s ends in the middle of an event.', path)
      return
    yield Event.FromString(data[start + 12 : end])
    start = end + 4
