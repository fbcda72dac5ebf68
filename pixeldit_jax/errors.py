"""Errors that a user can mend: shown as one line; a bug keeps its traceback.

Each message says what was given, what was expected and the fix. The subclasses
are also what Python's own names say, so that `except FileNotFoundError` works.
"""

import os
import threading
import types


def escaped(text: str) -> str:
  """Text for a terminal: control characters of strangers' names as `\\x1b`.

  Line ends stay. Names can so neither colour nor rewrite what is shown.
  """
  return ''.join(
    c
    if c.isprintable() or c in '\n\t'
    else c.encode('ascii', 'backslashreplace').decode()
    if not c.isascii()
    else f'\\x{ord(c):02x}'
    for c in text
  )


def one_line(error: object) -> str:
  """The message of a library's error without its line ends."""
  return ' '.join(str(error).split())


def is_of_hub(error: Exception) -> bool:
  """Whether huggingface_hub could not reach or find what was asked for.

  Its refusals are OSErrors; failed connections are of the HTTP library of the
  day, which is not ours to import.
  """
  library = type(error).__module__.partition('.')[0]
  return isinstance(error, OSError) or library in ('httpx', 'httpcore')


class UserError(ValueError):
  """What was given cannot be used; the message names the fix."""


class MissingFileError(UserError, FileNotFoundError):
  """A file or folder that was named does not exist."""


class MissingPackageError(UserError, ImportError):
  """An optional package is not installed; the message says how to get it."""


class TooLargeError(UserError, OSError):
  """It would take more memory than is allowed; the message says the limit."""


class OutputError(UserError, OSError):
  """A result cannot be written: a full disk, or no permission."""


class DivergenceError(UserError, FloatingPointError):
  """Loss, gradients or weights stopped being finite."""


# Of a run that saved and can go on (EX_TEMPFAIL of sysexits.h).
EXIT_STOPPED = 75
# Of a process that ended as another one of the run was lost.
EXIT_LOST = 76


class Stopped(BaseException):
  """The run was asked to stop; all up to this step is saved.

  Like KeyboardInterrupt it is no Exception: a signal comes at any moment, and
  what takes all errors of a broken file is not to take it.
  """


def stop_by_signal(
  words: str, number: int, frame: types.FrameType | None
) -> None:
  """Raises Stopped out of the handler of a signal.

  Not within an import: libraries of C crash where their loading is left by an
  exception. The signal then comes again a little later.

  Args:
    words: what is said.
    number: the signal.
    frame: what it interrupted.
  """
  while frame:
    if frame.f_code.co_filename.startswith('<frozen importlib'):
      again = threading.Timer(0.05, os.kill, (os.getpid(), number))
      again.daemon = True
      again.start()
      return
    frame = frame.f_back
  raise Stopped(words)
