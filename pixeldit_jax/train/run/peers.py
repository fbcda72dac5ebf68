"""The processes of a run watch each other, and end in words when one is lost.

Process 0 takes a connection from each of the others, on the port that JAX uses
afterwards. A beat goes both ways every two seconds. A process that dies closes
its connection; one that is stopped, or whose machine is gone, beats no more.
The others then end with exit code 76, long before JAX notices and aborts.
"""

import atexit
import contextlib
import ctypes
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pixeldit_jax.errors import EXIT_LOST, UserError, escaped

BEAT = 2.0  # seconds between two
SILENT = 20.0  # seconds without any, after which a process is lost
_SAID = 10.0  # seconds between two lines about those that are missing
_GRACE = 5.0  # a process that fails for the same reason says so itself
_HELLO = b'pixeldit process '
_watch: '_Watch | None' = None
_ends = threading.Lock()  # of the one thread that ends this process
_kept: list[object] = []  # what C calls must not be collected


def join(host: str, port: int, count: int, index: int, patience: float) -> None:
  """Returns once all processes are there; from then on they are watched.

  Args:
    host: of process 0.
    port: where it listens until then.
    count: number of processes.
    index: of this one.
    patience: seconds in which all have to come.

  Raises:
    UserError: some did not come.
  """
  global _watch
  deadline = _Deadline(patience, f'{host}:{port}')
  if index == 0:
    connections = _receive(port, count, deadline)
  else:
    connections = {0: _connect(host, port, index, deadline)}
  _watch = _Watch(connections, index)


def failed(reason: str, shown: str, code: int = 1) -> None:
  """Ends this process, and tells the others why; does nothing in a lone one.

  Where it fails because another one is lost, that is said in its place.

  Args:
    reason: for the others, of which the first line is taken.
    shown: what this process prints.
    code: that it ends with.
  """
  if _watch:
    time.sleep(BEAT)  # in which the watch may find the cause
    _ends.acquire()  # the answer of the others must not end this one
    print(shown, file=sys.stderr, flush=True)
    sys.stdout.flush()
    _watch.tell(f'failed {escaped(reason.strip().partition(chr(10))[0])}')
    os._exit(code)  # JAX would wait for the others for minutes


class _Deadline:
  """Says every ten seconds who is missing, and at last gives up."""

  def __init__(self, seconds: float, place: str):
    self._end = time.monotonic() + seconds
    self._next = time.monotonic() + _SAID
    self._seconds, self._place = seconds, place

  def check(self, missing: str) -> None:
    now = time.monotonic()
    if now > self._end:
      raise UserError(
        f'{missing} did not come to {self._place} within {self._seconds:.0f} '
        's. Start all processes with the same --coordinator_address and '
        '--num_processes, each with its --process_id, and look whether the '
        'port can be reached.'
      )
    if now > self._next:
      # Not by the log, which begins once the processes know each other.
      print(f'waiting for {missing} at {self._place}', flush=True)
      self._next = now + _SAID


def _receive(
  port: int, count: int, deadline: _Deadline
) -> dict[int, socket.socket]:
  """The connections of all others, by their index."""
  found: dict[int, socket.socket] = {}
  options: dict[str, Any] = {}
  if socket.has_dualstack_ipv6():  # as JAX listens
    options = dict(family=socket.AF_INET6, dualstack_ipv6=True)
  with socket.create_server(('', port), backlog=count, **options) as server:
    server.settimeout(1)
    while len(found) < count - 1:
      found |= _accept(server, count)
      for index, connection in found.items():
        if _is_closed(connection):
          _tell_all(server, found, count, f'process {index} died.')
      missing = [str(i) for i in range(1, count) if i not in found]
      if missing:
        deadline.check(
          f'{len(missing)} of {count} processes ({", ".join(missing[:8])})'
        )
  _send(found.values(), 'go')
  return found


def _accept(server: socket.socket, count: int) -> dict[int, socket.socket]:
  """The next connection by the index of its process; none within a second."""
  with contextlib.suppress(TimeoutError):
    connection, _ = server.accept()
    connection.settimeout(5)
    with contextlib.suppress(OSError, ValueError):
      line = _read_line(connection)
      index = int(line.removeprefix(_HELLO))
      if line.startswith(_HELLO) and 0 < index < count:
        return {index: connection}
  return {}


def _tell_all(
  server: socket.socket,
  found: dict[int, socket.socket],
  count: int,
  words: str,
) -> None:
  """Tells those that are there, and those that come soon; then ends too."""
  _send(found.values(), f'lost {words}')
  seen, end = set(found), time.monotonic() + SILENT
  while len(seen) < count - 1 and time.monotonic() < end:
    late = _accept(server, count)
    _send(late.values(), f'lost {words}')
    seen |= set(late)
  _end(words)


def _send(connections: Iterable[socket.socket], line: str) -> None:
  for connection in connections:
    with contextlib.suppress(OSError):  # gone: found when it is read
      connection.sendall(line.encode(errors='replace') + b'\n')


def _connect(
  host: str, port: int, index: int, deadline: _Deadline
) -> socket.socket:
  """The connection to process 0, once it has those of all others."""
  closed = math.inf  # when process 0 was last seen to go
  while True:
    with contextlib.suppress(OSError):
      connection = socket.create_connection((host, port), 5)
      connection.settimeout(1)
      connection.sendall(_HELLO + b'%d\n' % index)
      while True:
        with contextlib.suppress(TimeoutError):
          line = _read_line(connection).decode(errors='replace')
          if line == 'go':
            return connection
          if line.startswith('lost '):
            _end(line.removeprefix('lost '))
          closed = time.monotonic()  # it may begin anew
          break
        deadline.check('the other processes')
    if time.monotonic() - closed > SILENT:
      _end('process 0 died.')
    deadline.check('process 0')
    time.sleep(0.5)


def _read_line(connection: socket.socket) -> bytes:
  line = b''
  while not line.endswith(b'\n') and len(line) < 100:
    byte = connection.recv(1)
    if not byte:
      break
    line += byte
  return line.strip()


def _is_closed(connection: socket.socket) -> bool:
  """Whether the other end is gone; what it sent before is dropped."""
  connection.setblocking(False)
  try:
    while connection.recv(4096):
      pass
    return True
  except BlockingIOError:
    return False
  except OSError:
    return True
  finally:
    connection.settimeout(5)


def _await_watch_in_abort() -> None:
  """Has an abort wait until the watch has seen that process 0 is gone.

  JAX aborts then, and may notice it first, or while the watch still says it.
  """
  libc = ctypes.CDLL(None)

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def aborted(number):
    time.sleep(_GRACE)
    libc.signal(number, signal.SIG_DFL)  # a bug: it goes on to abort

  # Python's own handlers run in the main thread, which may wait for ever.
  libc.signal(signal.SIGABRT, aborted)
  _kept.append(aborted)


class _Watch:
  """A thread that beats, listens, and ends this process when one is lost."""

  def __init__(self, connections: Mapping[int, socket.socket], index: int):
    self._connections, self._index = dict(connections), index
    self._heard = dict.fromkeys(connections, time.monotonic())
    self._pending = dict.fromkeys(connections, b'')
    self._done: set[int] = set()
    self._selector = selectors.DefaultSelector()
    for number, connection in connections.items():
      connection.settimeout(5)
      self._selector.register(connection, selectors.EVENT_READ, number)
    if index:
      _await_watch_in_abort()
    # Before JAX's own, which waits for the others.
    atexit.register(self.tell, 'done')
    threading.Thread(target=self._run, daemon=True).start()

  def tell(self, line: str, to: int | None = None) -> None:
    """Sends a line to one of the connected processes, or to all."""
    known = list(self._connections.items())
    _send((c for number, c in known if to in (None, number)), line)

  def _run(self) -> None:
    last = beat = time.monotonic()
    while self._connections:
      for key, _ in self._selector.select(BEAT / 2):
        self._read(key.data)
      now = time.monotonic()
      if now - last > SILENT:
        _end(
          f'this process stood still for {now - last:.0f} s: the others gave '
          'it up.'
        )
      last = now
      if now - beat > BEAT:
        self.tell('.')
        beat = now
      for number, heard in self._heard.items():
        watched = number in self._connections and number not in self._done
        if watched and now - heard > SILENT:
          self._lost(number, f'does not answer for {SILENT:.0f} s')

  def _read(self, number: int) -> None:
    connection = self._connections[number]
    try:
      data = connection.recv(4096)
    except OSError:
      data = b''
    self._heard[number] = time.monotonic()
    *lines, self._pending[number] = (self._pending[number] + data).split(b'\n')
    for line in lines:
      word, _, rest = line.decode(errors='replace').partition(' ')
      if word == 'done':
        self._done.add(number)
      elif word == 'failed':
        self._lost(number, f'failed: {rest}', wait=_GRACE)
      elif word == 'lost':
        _end(rest)
    if not data:
      self._selector.unregister(connection)
      del self._connections[number]
      if number not in self._done:
        self._lost(number, 'died')

  def _lost(self, number: int, what: str, wait: float = 0.0) -> None:
    words = f'process {number} {what}.'
    self.tell(f'lost {words}')
    time.sleep(wait)
    _end(words, linger=0 if self._index else 1.0)


def _end(words: str, linger: float = 0.0) -> None:
  """Ends this process; the first one waits until the others did the same.

  JAX aborts them as soon as process 0 is gone. Returns where another thread
  ends this process already.
  """
  if not _ends.acquire(blocking=False):
    return
  text = (
    f'{escaped(words)} This process ends too: start all of them again, they go '
    'on from the newest checkpoint.\n'
  )
  os.write(2, text.encode(errors='replace'))
  time.sleep(linger)
  os._exit(EXIT_LOST)
