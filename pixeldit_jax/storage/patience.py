"""How long a bucket is waited for: what failed is asked again, for seconds.

A busy server and a cut connection mend themselves within seconds. A bucket that
fails for longer is given up: from then on each request is tried once, until one
succeeds, so that a command that ends does not wait again for each thing that it
tidies up.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

ANSWER = 5.0  # seconds without a byte after which a request has failed
SLOW = 60.0  # the same where much is sent: a slow line holds it for a while
LIMIT = 6.0  # seconds of failures after which nothing is asked again
BUSY = frozenset([408, 429, 500, 502, 503, 504])  # statuses that may pass

Result = TypeVar('Result')
_given_up: set[str] = set()  # schemes


class _Attempts:
  """The attempts at one request."""

  def __init__(self, scheme: str, is_passing: Callable[[Exception], bool]):
    self._scheme, self._is_passing = scheme, is_passing
    self._pause, self._begin = 0.0, 0.0

  def pause(self, error: Exception, begin: float) -> float:
    """Seconds until the next attempt.

    Args:
      error: of the last attempt.
      begin: when its seconds began to count.

    Raises:
      Exception: `error`, if there is no other attempt.
    """
    if not self._is_passing(error):
      raise error
    self._begin = self._begin or begin
    seconds = time.monotonic() - self._begin
    if self._scheme in _given_up or seconds > LIMIT:
      _given_up.add(self._scheme)
      raise error
    self._pause = min(2 * self._pause or 0.25, 2)
    # Many hosts fail at once, and are not to come back at once.
    return self._pause * random.uniform(0.75, 1.25)

  def succeeded(self) -> None:
    _given_up.discard(self._scheme)


def again(
  scheme: str,
  is_passing: Callable[[Exception], bool],
  work: Callable[[], Result],
) -> Result:
  """What `work` returns, called again where it fails.

  Args:
    scheme: of the bucket, before '://'.
    is_passing: whether an error may be gone at the next attempt.
    work: a request.

  Raises:
    Exception: the error of the last attempt.
  """
  attempts = _Attempts(scheme, is_passing)
  while True:
    begin = time.monotonic()
    try:
      result = work()
    except Exception as error:
      # A long transfer may have been cut at its end: that counts as one answer.
      begin = max(begin, time.monotonic() - ANSWER)
      time.sleep(attempts.pause(error, begin))
    else:
      attempts.succeeded()
      return result


async def again_async(
  scheme: str,
  is_passing: Callable[[Exception], bool],
  work: Callable[[], Awaitable[Result]],
) -> Result:
  """As `again`, in an event loop, for small requests: all seconds count."""
  attempts, begin = _Attempts(scheme, is_passing), time.monotonic()
  while True:
    try:
      result = await work()
    except Exception as error:
      await asyncio.sleep(attempts.pause(error, begin))
    else:
      attempts.succeeded()
      return result
