"""One trainer on a workdir: the second refuses.

The first process of a run holds a lock of the operating system on `lock`, which
ends with the process however it ends. Where such locks do not reach from host
to host (some network disks) or do not exist (buckets), a beat in the file says
that its writer lives: a start that finds the beat of another host watches it
for a while.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

from etils import epath

from pixeldit_jax.errors import UserError

BEAT = 10.0  # seconds between two


@contextlib.contextmanager
def hold(workdir: str, beat: float = BEAT) -> Iterator[None]:
  """Within it, no other trainer starts in this workdir.

  Args:
    workdir: of the run; made if absent.
    beat: seconds between two signs of life, the same in all trainers.

  Raises:
    UserError: another trainer holds it.
  """
  path = epath.Path(workdir) / 'lock'
  path.parent.mkdir(parents=True, exist_ok=True)
  with _operating_system_lock(path, workdir):
    held = _read(path)
    if held.get('beat') and held['host'] != socket.gethostname():
      time.sleep(3 * beat)
      if _read(path) != held:
        raise UserError(_refusal(workdir, held))
    holder = dict(host=socket.gethostname(), pid=os.getpid(), beat=1)
    _write(path, holder)
    over = threading.Event()
    thread = threading.Thread(
      target=_beat, args=(path, holder, beat, over), daemon=True
    )
    thread.start()
    try:
      yield
    finally:
      over.set()
      thread.join()


@contextlib.contextmanager
def _operating_system_lock(path, workdir):
  """flock, where there is one; it ends when the file is closed."""
  if '://' in workdir:
    yield
    return
  with open(path, 'a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(_refusal(workdir, _read(path))) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        raise
    yield


def _beat(path, holder, beat, over):
  """Writes who holds the workdir, counting; at the end, that nobody does."""
  while not over.wait(beat):
    holder['beat'] += 1
    _write(path, holder)
  _write(path, holder | dict(beat=0))


def _write(path, holder):
  # In place: a renamed file would be another one than is locked. A full disk
  # must not end the thread; the lock holds all the same.
  with contextlib.suppress(OSError):
    path.write_text(json.dumps(holder) + '\n')


def _read(path) -> dict:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):  # absent, or just being written
    return {}


def _refusal(workdir, held):
  return (
    f'workdir {workdir} is in use by the trainer with process id '
    f'{held.get("pid", "unknown")} on {held.get("host", "an unknown host")}: '
    'stop that one, or use another --workdir.'
  )
