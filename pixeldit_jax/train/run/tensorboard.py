"""TensorBoard's event files, written without a thread.

tensorboardX's own `SummaryWriter` leaves that to a thread, which dies where the
disk is full, and the run would wait for it for ever. Imported where it is used:
tensorboardX brings torch with it, if that is installed.
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

log = logging.getLogger(__name__)


class EventFiles:
  """Numbers and pictures of a run, in a folder."""

  def __init__(self, folder: epath.Path, step: int):
    """Goes on after `step`: what the folder has of later ones is hidden."""
    self._folder, self._file, self._count = folder, None, 0
    start = SessionLog(status=SessionLog.START)
    self._write([Event(step=step + 1, session_log=start)])

  def add(self, step: int, values: Mapping[str, np.ndarray | float]) -> None:
    """Writes pictures (uint8 [H, W, 3]) and numbers; a full disk is told."""
    found = [
      summary.image(name, value, dataformats='HWC')
      if isinstance(value, np.ndarray)
      else summary.scalar(name, value)
      for name, value in values.items()
    ]
    self._write([Event(step=step, summary=one) for one in found])

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
      log.warning('TensorBoard lacks what is told now: %s', error)
      self._file = None  # it may end anywhere: another one follows

  def close(self) -> None:
    if self._file is not None:
      with contextlib.suppress(OSError):  # all was written before
        self._file.close()
