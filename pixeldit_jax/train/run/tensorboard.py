"""TensorBoard's event files, written without a thread, and read.

The `SummaryWriter` of tensorboardX leaves that to a thread, which dies where
the disk is full, and the run would wait for it for ever (tensorboard had the
same, tensorflow/tensorboard#6167). It would also import torch, if that is
installed: a second of every start.

An object in a bucket cannot grow, and its writer would send all of it anew for
every event. There, files are written on a disk and sent now and then.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from pixeldit_jax import files
from pixeldit_jax.storage import buckets
from pixeldit_jax.typing import UInt8


@contextlib.contextmanager
def _torch_absent() -> Iterator[None]:
  """What is imported in it finds torch only where it is loaded already."""
  absent = 'torch' not in sys.modules
  if absent:
    sys.modules['torch'] = None  # type: ignore[assignment]
  try:
    yield
  finally:
    if absent:
      del sys.modules['torch']


with _torch_absent():
  from tensorboardX import summary
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event, SessionLog

log = logging.getLogger(__name__)

_SEND = 60.0  # seconds between two times that a file is sent to a bucket
_FULL = 8 << 20  # bytes after which another file follows there


class EventFiles:
  """Scalars and pictures of a run, in a folder."""

  def __init__(self, folder: epath.Path, step: int):
    """Goes on after `step`: events of later steps in the folder are hidden."""
    self._folder, self._count = folder, 0
    self._file: EventsWriter | None = None
    self._disk: tempfile.TemporaryDirectory | None = None
    self._sent = time.monotonic()
    if buckets.is_remote(folder):
      self._disk = tempfile.TemporaryDirectory(prefix='pixeldit-events-')
    start = SessionLog(status=SessionLog.START)
    self._write([Event(step=step + 1, session_log=start)])

  def add(
    self,
    step: int,
    scalars: Mapping[str, float],
    images: Mapping[str, UInt8[np.ndarray, '_ _ 3']] | None = None,
  ) -> None:
    """Writes scalars and pictures; a full disk is only reported."""
    summaries = [summary.scalar(name, x) for name, x in scalars.items()]
    for name, image in (images or {}).items():
      summaries.append(summary.image(name, image, dataformats='HWC'))
    self._write([Event(step=step, summary=one) for one in summaries])

  def _write(self, events: list[Event]) -> None:
    try:
      if self._file is None:
        folder = self._disk.name if self._disk else self._folder
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(f'{folder}/events', f'.{self._count}')
        self._count += 1
      for event in events:
        event.wall_time = time.time()
        self._file.write_event(event)
      self._file.flush()
      if self._disk and time.monotonic() > self._sent + _SEND:
        self._send()
    except OSError as error:  # the next checkpoint ends the run, if it has to
      log.warning('TensorBoard lacks the events of now: %s', error)
      self._file = None  # it may be cut anywhere: another one follows

  def close(self) -> None:
    with contextlib.suppress(OSError):  # all of a disk was written before
      if self._file is not None:
        self._file.close()
      if self._disk is not None:
        self._send()
    if self._disk is not None:
      self._disk.cleanup()

  def _send(self) -> None:
    """Copies what is on the disk to the bucket; after a full file, another."""
    assert self._disk is not None
    self._sent = time.monotonic()
    for path in pathlib.Path(self._disk.name).iterdir():
      data = path.read_bytes()
      files.write_bytes(self._folder / path.name, data)
      if len(data) > _FULL:
        self._file = None
        path.unlink()


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
  for path in sorted(place.glob('*tfevents*')) if place.is_dir() else []:
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


def _events_of(path: epath.Path) -> Iterator[Event]:
  """A record is its length, a checksum, an `Event` and another checksum."""
  data, start = files.read_bytes(path), 0
  while start + 12 <= len(data):
    (length,) = struct.unpack_from('<Q', data, start)
    end = start + 12 + length
    if end + 4 > len(data):
      log.info('%s ends in the middle of an event.', path)
      return
    yield Event.FromString(data[start + 12 : end])
    start = end + 4
