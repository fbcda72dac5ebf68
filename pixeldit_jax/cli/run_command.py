"""Runs a command: its flags, its help, and how its errors are shown.

A `UserError` and a wrong flag are one line and exit code 1. A run that was
stopped and can go on ends with exit code 75. Any other exception is a bug, here
or in a user's own code, and shows its traceback. The other processes of a run
hear of errors, and end too (`train.run.peers`).
"""

import contextlib
import errno
import gc
import glob
import importlib.util
import os
import pathlib
import re
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, TextIO

from absl import app, flags

from pixeldit_jax.cli import size_flags
from pixeldit_jax.errors import (
  EXIT_STOPPED,
  Stopped,
  UserError,
  escaped,
  stop_by_signal,
)
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.run import peers

_FULL = {errno.ENOSPC, errno.EDQUOT}  # of a disk
_OBJECTS = 20_000  # new ones after which Python looks for garbage
_HELP = {'--help', '-help', '-h', '-?', '--helpshort'}
_FULL_HELP = {'--helpfull', '-helpfull'}


def run(main: Callable[[], None]) -> None:
  """Parses the flags, calls `main` and ends the process.

  Args:
    main: the function of a module of launch/.
  """
  # Imports and traces leave little to collect: a tenth of a short command.
  gc.set_threshold(_OBJECTS)
  name = _command_name(main)
  _hide_launch_folder()
  _pass_over_absent_tpu()
  if {*sys.argv} & (_HELP | _FULL_HELP):
    print(_help(main, name))
    return
  for number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_DFL:
      signal.signal(number, _on_terminate)
  try:
    with contextlib.redirect_stdout(_Escaping(sys.stdout)):
      app.run(lambda argv: main(), flags_parser=_parse)
  except UserError as error:
    message = f'{name}: {escaped(str(error))}'
    peers.failed(str(error), message)
    sys.exit(message)
  except Stopped as stopped:
    print(f'{name}: {stopped}')
    sys.exit(EXIT_STOPPED)
  except Exception as error:
    if isinstance(error, OSError) and error.errno in _FULL:
      place = error.filename or 'the disk'
      message = f'{name}: {escaped(f"{place}: {error.strerror}")}; make room.'
    elif said := buckets.refusal(error):
      message = escaped(
        f'{name}: a bucket refused or did not answer ({said}): look at '
        'credentials and network; the same command goes on where it was.'
      )
    else:
      message = escaped(traceback.format_exc().rstrip('\n'))
    peers.failed(f'{type(error).__name__}: {error}', message)
    sys.exit(message)


class _Escaping:
  """What commands print: names of strangers do nothing to a terminal."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    return self._stream.write(escaped(text))

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def _on_terminate(number: int, frame: types.FrameType | None) -> None:
  """Ends a command as an error does, so that it clears its temporary files."""
  name = signal.Signals(number).name
  words = f'stopped by {name}: the same command goes on where it was.'
  stop_by_signal(words, number, frame)


def _command_name(main: Callable[[], None]) -> str:
  """'prepare-data' of pixeldit_jax/launch/prepare_data.py."""
  module = main.__module__
  if module == '__main__':
    module = pathlib.Path(sys.argv[0]).stem
  return module.rpartition('.')[2].replace('_', '-')


def _hide_launch_folder() -> None:
  """Takes the folder of the script from `sys.path`.

  Python puts launch/ there for `python launch/train.py`, and its evaluate.py
  would be found in place of an installed package of that name.
  """
  launch = pathlib.Path(__file__).resolve().parents[2] / 'launch'
  if sys.path and pathlib.Path(sys.path[0]).resolve() == launch:
    del sys.path[0]


def _pass_over_absent_tpu() -> None:
  """Keeps JAX from trying a TPU where libtpu is installed and no chip is there.

  libtpu would print six alarming lines before each command.
  """
  plugins = ('jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm60_plugin')
  chips = [*glob.glob('/dev/accel*'), *glob.glob('/dev/vfio/*')]
  if (
    'JAX_PLATFORMS' not in os.environ
    and importlib.util.find_spec('libtpu')
    and not any(map(importlib.util.find_spec, plugins))
    and not chips
  ):
    os.environ['JAX_PLATFORMS'] = 'cpu'


def _help(main: Callable[[], None], name: str) -> str:
  """The description of a command and its flags; with --helpfull, all flags."""
  if {*sys.argv} & _FULL_HELP:
    return flags.FLAGS.get_help()
  module = sys.modules[main.__module__]
  _, _, listed = flags.FLAGS.module_help(module).strip().partition('\n')
  return (
    f'{module.__doc__}\nFlags of {name} (--helpfull shows all):\n{listed}\n\n'
    f'Flags of all commands:\n{size_flags.describe()}'
  )


def _parse(argv: list[str]) -> list[str]:
  """Reads the flags; a first argument without a dash is the --workdir.

  Raises:
    UserError: a flag or a key is unknown, or its value is wrong.
  """
  first = argv[1] if len(argv) > 1 else '-'
  if (
    'workdir' in flags.FLAGS and not first.startswith('-') and '=' not in first
  ):
    argv = [argv[0], f'--workdir={first}', *argv[2:]]
  try:
    argv = flags.FLAGS(argv)
  except flags.Error as error:
    # absl wraps what a parser raises.
    cause = error.__context__
    if not isinstance(cause, UserError):
      cause = UserError(_flag_error(str(error)))
    raise cause from error
  except (AttributeError, KeyError) as error:
    raise UserError(unknown_key(error)) from error
  size_flags.apply()
  if argv[1:]:
    raise UserError(f'{argv[1:]} are not flags; write --name=value.')
  return argv


def _flag_error(text: str) -> str:
  """The message of absl for a wrong flag; shorter if the flag is missing."""
  missing = re.match(r'flag --(\w+)=None: .*must have a value', text)
  return f'--{missing[1]} is missing; see --help.' if missing else text


def unknown_key(error: Exception) -> str:
  """The message of ml_collections for an unknown key."""
  said: Any = error
  while isinstance(said, Exception):
    said = said.args[0]
  key, *near = said.replace('"', '').splitlines()
  more = ' '.join([*near, 'All keys: configs/KEYS.md.'])
  return f'--config has no key {key}. {more}'
