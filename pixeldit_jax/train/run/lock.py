"""One trainer on a workdir: the second refuses.

The first process of a run holds a lock of the operating system on `lock`, which
ends with the process however it ends. Where such locks do not reach from host
to host (some network disks), a beat in the file tells that its writer lives: a
start that finds the beat of another host, or of another container, watches it
for a while. Where there are none at all, a file that only one can create takes
their place (`lock.held`). In a bucket each beat replaces the one before it, on
the condition that it is still there. Before it saves, a holder looks whether
the lock is still its own.
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
from pixeldit_jax.storage import buckets

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
    self._holder = _holder()
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
    return _loss(self._workdir, other)

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


class HeldInBucket:
  """A lock that is held in a bucket, and beats."""

  def __init__(self, there: buckets.Object, workdir: str):
    """Holds it from the first time that it is not `lost`.

    Args:
      there: the lock.
      workdir: for messages.
    """
    self._there, self._workdir, self._holder = there, workdir, _holder()
    self._writing, self._ours = threading.Lock(), True

  def lost(self) -> str:
    """What happened to the lock; '' while it is ours. It is a beat, too."""
    with self._writing:
      self._write(1)
      if self._ours:
        return ''
      return _loss(self._workdir, _parse(self._there.text))

  def beat(self, count: int) -> None:
    """Writes who holds the lock; 0 says that nobody does."""
    # A bucket that does not answer must not end the thread: what was not
    # written, `lost` tells before the next save.
    with self._writing, contextlib.suppress(Exception):
      self._write(count)

  def _write(self, count: int) -> None:
    """Beats, unless another has the lock: it then has it for good."""
    if self._ours:
      state = self._holder | dict(beat=count, nonce=uuid.uuid4().hex)
      self._ours = self._there.replace(json.dumps(state))


@contextlib.contextmanager
def hold(workdir: str, beat: float = BEAT) -> Iterator['Held | HeldInBucket']:
  """Within it, no other trainer starts in this workdir.

  A folder that it made, and in which nothing else is at the end, is removed.

  Args:
    workdir: of the run; made if absent.
    beat: seconds between two signs of life, the same in all trainers.

  Raises:
    UserError: another trainer holds it.
  """
  buckets.check(workdir)
  if buckets.is_remote(workdir):
    with _hold_in_bucket(workdir, beat) as one:
      yield one
    return
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
    try:
      with _beating(held, beat):
        yield held
    finally:
      _remove_if_alone(path, made)


@contextlib.contextmanager
def _hold_in_bucket(workdir: str, beat: float) -> Iterator['HeldInBucket']:
  """The object `lock`; each holder knows its generation, and nobody else."""
  there = buckets.Object(f'{workdir.rstrip("/")}/lock')
  before = _parse(there.text)
  if before.get('beat'):
    text = there.text
    time.sleep(3 * beat)
    if there.read() != text:
      raise UserError(_refusal(workdir, before))
  held = HeldInBucket(there, workdir)
  if held.lost():
    raise UserError(_refusal(workdir, _parse(there.read())))
  with _beating(held, beat):
    yield held


@contextlib.contextmanager
def _beating(held: 'Held | HeldInBucket', beat: float) -> Iterator[None]:
  """Shows signs of life meanwhile, and then that nobody holds the lock."""
  over = threading.Event()

  def keep_beating() -> None:
    count = 1
    while not over.wait(beat):
      count += 1
      held.beat(count)
    held.beat(0)

  thread = threading.Thread(target=keep_beating, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


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


def _holder() -> dict[str, Any]:
  """Who we are."""
  return dict(
    host=socket.gethostname(),
    pid=os.getpid(),
    machine=_machine(),
    token=uuid.uuid4().hex,
  )


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
    return _parse(path.read_text())
  except (OSError, ValueError):  # absent, or just being written
    return {}


def _parse(text: str) -> dict:
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _loss(workdir: str, other: dict) -> str:
  now = _who(other) if other else 'nobody'
  return (
    f'the lock of workdir {workdir} is no longer ours, but held by {now}: this '
    'run stops, and saves nothing over the other one. Never remove the file '
    '"lock" of a run that trains.'
  )


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
