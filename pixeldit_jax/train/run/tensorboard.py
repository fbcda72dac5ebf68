"""TensorBoard's event files, written without a thread.

The `SummaryWriter` of tensorboardX leaves that to a thread, which dies where
the disk is full, and the run would wait for it for ever (tensorboard had the
same, tensorflow/tensorboard#6167). Imported where it is used: tensorboardX
imports torch, if that is installed.
"""

import contextlib
import logging
import time
from collections.abc import Mapping

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)


class EventFiles:
  """Scalars and pictures of a run, in a folder."""

  def __init__(self, folder: epath.Path, step: int):
    """Goes on after `step`: events of later steps in the folder are hidden."""
    self._folder, self._count = folder, 0
    self._file: EventsWriter | None = None
    start = SessionLog(status=SessionLog.START)
    self._write([Event(step=step + 1, session_log=start)])

  def add(
    self,
    step: int,
    scalars: Mapping[str, float],
    images: Mapping[str, UInt8[np.ndarray, 'H W 3']] | None = None,
  ) -> None:
    """Writes scalars and pictures; a full disk is only reported."""
    summaries = [summary.scalar(name, x) for name, x in scalars.items()]
    for name, image in (images or {}).items():
      summaries.append(summary.image(name, image, dataformats='HWC'))
    self._write([Event(step=step, summary=one) for one in summaries])

  def _write(self, events: list[Event]) -> None:
    try:
      if self._file is None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(
          str(self._folder / 'events'), f'.{self._count}'
        )
        self._count += 1
      for event in events:
        event.wall_time = time.time()
        self._file.write_event(event)
      self._file.flush()
    except OSError as error:  # the next checkpoint ends the run, if it has to
      log.warning('TensorBoard lacks the events of now: %s', error)
      self._file = None  # it may be cut anywhere: another one follows

  def close(self) -> None:
    if self._file is not None:
      with contextlib.suppress(OSError):  # all was written before
        self._file.close()
