"""How far a long task is, how fast, and how long it will take."""

import datetime
import logging
import time

log = logging.getLogger(__name__)

SECONDS = 10.0  # between two lines


class Progress:
  """f(done) logs 'Sampled 640 of 50,000 images, 41.3 images/s, left 0:19:54'.

  The speed is that since the first report, which waits for compilation.
  """

  def __init__(
    self,
    verb: str,
    count: int,
    seconds: float = SECONDS,
    unit: str = 'images',
  ):
    """Starts.

    Args:
      verb: what was done to the images.
      count: of all the images.
      seconds: the least time between two lines; the last is always logged.
      unit: what is counted, if not images.
    """
    self._verb, self._count, self._seconds = verb, count, seconds
    self._first: tuple[float, int] | None = None
    self._last = 0.0
    self._unit = unit

  def __call__(self, done: int, note: str = '') -> None:
    """Logs a line if it is time for one.

    Args:
      done: of all, so far.
      note: ends the line.
    """
    now = time.perf_counter()
    if self._first is None:
      self._first = (now, done)
    elif done < self._count and now < self._last + self._seconds:
      return
    start, before = self._first
    self._last = now
    line = f'{self._verb} {done:,} of {self._count:,} {self._unit}'
    if done > before:
      rate = (done - before) / (now - start)
      left = datetime.timedelta(seconds=round((self._count - done) / rate))
      line += f', {rate:,.1f} {self._unit}/s, left {left}'
    log.info('%s', f'{line}, {note}' if note else line)
