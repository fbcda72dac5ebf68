"""Shows what the package logs; its modules log by `logging.getLogger`."""

import logging
import sys

import absl.logging

from pixeldit_jax.errors import escaped


class _Escaping(logging.Formatter):
  """Shows names of files and classes without what they do to a terminal."""

  def format(self, record: logging.LogRecord) -> str:
    return escaped(super().format(record))


def start_log(process_index: int = 0, level: str = 'INFO') -> None:
  """Prints the log lines of this package, and warnings of others.

  Args:
    process_index: lines below warnings are printed by process 0 only.
    level: the least severe lines that are printed.
  """
  absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax logs much
  package = logging.getLogger('pixeldit_jax')
  if not package.handlers:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Escaping('%(asctime)s %(message)s', '%H:%M:%S'))
    package.addHandler(handler)
  package.propagate = False
  package.setLevel(level if process_index == 0 else 'WARNING')
