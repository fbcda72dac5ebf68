"""One trainer on a workdir: the second refuses.

The first process of a run holds a lock of the operating system on `lock`, which
ends with the process however it ends. Where such locks do not reach from host
to host (some network disks), a beat in the file tells that its writer lives: a
start that finds the beat of another host, or of another container, watches it
for a while. Where there are none at all, a file that only one can create takes
their place (`lock.held`), and in a bucket a start writes who it is, and looks
again later. Before it saves, a holder looks whether the lock is still its own.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, TextIO

from etils import epath

from pixeldit_jax.errors import UserError

BEAT = 10.0  # seconds between two
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Held:
  """A lock that is held, and beats."""

  def __init__(self, path: epath.Path, file: TextIO | None, workdir: str):
    """Takes the place of whoever held it before.

    Args:
      path: of the lock.
      file: the same, open; None where the system has no locks.
      workdir: for messages.
    """
    self._path, self._file, self._workdir = path, file, workdir
    self._holder: dict[str, Any] = dict(
      host=socket.gethostname(),
      pid=os.getpid(),
      machine=_machine(),
      token=uuid.uuid4().hex,
    )
    self._writing = threading.Lock()
    self.beat(1)

  def lost(self) -> str:
    """What happened to the lock; '' while it is ours."""
    with self._writing:
      other = _read(self._path)
      if self._file is None:
        # Nothing can be read of one that is just being written.
        ours = other.get('token', self._holder['token'])
        kept = self._path.exists() and ours == self._holder['token']
      else:
        kept = _is_file(self._path, self._file)
    if kept:
      return ''
    now = _who(other) if other else 'nobody'
    return (
      f'the lock of workdir {self._workdir} is no longer ours, but held by '
      f'{now}: this run stops, and saves nothing over the other one. Never '
      'remove the file "lock" of a run that trains.'
    )

  def beat(self, count: int) -> None:
    """Writes who holds the lock; 0 says that nobody does."""
    if self._file is None and count > 1 and self.lost():
      return  # it is of another trainer now
    text = json.dumps(self._holder | dict(beat=count)) + '\n'
    # In place: a renamed file would be another one than is locked. A full disk
    # must not end the thread; the lock holds all the same.
    with self._writing, contextlib.suppress(OSError):
      if self._file is None:
        self._path.write_text(text)
      else:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


@contextlib.contextmanager
def hold(workdir: str, beat: float = BEAT) -> Iterator[Held]:
  """Within it, no other trainer starts in this workdir.

  A folder that it made, and in which nothing else is at the end, is removed.

  Args:
    workdir: of the run; made if absent.
    beat: seconds between two signs of life, the same in all trainers.

  Raises:
    UserError: another trainer holds it.
  """
  path = epath.Path(workdir) / 'lock'
  made = not path.parent.exists()
  path.parent.mkdir(parents=True, exist_ok=True)
  with _operating_system_lock(path, workdir, beat) as file:
    before = _read(path)
    if before.get('beat') and before.get('machine') != _machine():
      time.sleep(3 * beat)
      if _read(path) != before:
        raise UserError(_refusal(workdir, before))
    held = Held(path, file, workdir)
    if file is None:
      time.sleep(beat)  # another that started with us has written by then
      if held.lost():
        raise UserError(_refusal(workdir, _read(path)))
    over = threading.Event()
    thread = threading.Thread(
      target=_keep_beating, args=(held, beat, over), daemon=True
    )
    thread.start()
    try:
      yield held
    finally:
      over.set()
      thread.join()
      _remove_if_alone(path, made)


def _keep_beating(held: Held, beat: float, over: threading.Event) -> None:
  count = 1
  while not over.wait(beat):
    count += 1
    held.beat(count)
  held.beat(0)


def _remove_if_alone(path: epath.Path, made: bool) -> None:
  """Removes the folder of a run that was refused before it wrote anything."""
  if made and [other.name for other in path.parent.iterdir()] == [path.name]:
    path.unlink()
    path.parent.rmdir()


@contextlib.contextmanager
def _operating_system_lock(
  path: epath.Path, workdir: str, beat: float
) -> Iterator[TextIO | None]:
  """flock, where there is one; it ends when the file is closed."""
  if '://' in workdir:
    yield None
    return
  while True:
    with open(path, 'a') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UserError(_refusal(workdir, _read(path))) from None
      except OSError as error:
        if error.errno not in _NO_LOCKS:
          raise
        with _exclusive_file(pathlib.Path(path), workdir, beat):
          yield None
        return
      # The one before may have removed the file between our two calls.
      if _is_file(path, file):
        yield file
        return


@contextlib.contextmanager
def _exclusive_file(
  path: pathlib.Path, workdir: str, beat: float
) -> Iterator[None]:
  """`lock.held`, which only one process can create."""
  held = path.with_name('lock.held')
  if held.exists():
    before = _read(path)
    time.sleep(3 * beat)
    if _read(path) != before:
      raise UserError(_refusal(workdir, before))
    held.unlink(missing_ok=True)  # its maker beats no more
  try:
    os.close(os.open(held, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
  except FileExistsError:
    raise UserError(_refusal(workdir, _read(path))) from None
  try:
    yield
  finally:
    held.unlink(missing_ok=True)


def _is_file(path: epath.Path, file: TextIO) -> bool:
  """Whether a path still leads to an open file."""
  try:
    there = os.stat(path)
  except OSError:
    return False
  return os.path.samestat(there, os.fstat(file.fileno()))


def _machine() -> str:
  """Where locks of the system surely reach: this boot, and this container."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id')
    parts.append(boot.read_text().strip())
    parts.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(parts)


def _read(path) -> dict:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):  # absent, or just being written
    return {}
  return found if isinstance(found, dict) else {}


def _who(held: dict) -> str:
  return (
    f'the trainer with process id {held.get("pid", "unknown")} on '
    f'{held.get("host", "an unknown host")}'
  )


def _refusal(workdir, held):
  return (
    f'workdir {workdir} is in use by {_who(held)}: stop that one, or use '
    'another --workdir.'
  )
