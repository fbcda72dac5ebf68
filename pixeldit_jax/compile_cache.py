"""Compiled programs are kept on disk: a second start does not compile again.

They lie in $XDG_CACHE_HOME/pixeldit_jax/compiled (~/.cache by default), in a
folder for each version of JAX and each kind of processor, since a program of
another one may not run. Processes of one machine share them. To clear them,
remove the folder; JAX_COMPILATION_CACHE_DIR names another one, and
JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
from typing import Any

from pixeldit_jax import files

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 30  # what is kept at the start of a command
_SHORTEST = 0.1  # seconds: what compiles faster is not worth a file


def enable(most_bytes: int = MOST_BYTES) -> pathlib.Path | None:
  """Lets JAX keep the programs of this process; returns the folder.

  None where the user chose another folder or none, where nothing can be written
  there, and where there are several processes: one that has a program while
  another compiles it would let GPUs wait for each other.

  Args:
    most_bytes: the oldest programs beyond them are removed.
  """
  import jax

  options: Any = jax.config
  chosen = options.jax_compilation_cache_dir
  if chosen or not options.jax_enable_compilation_cache:
    return None
  if jax.process_count() > 1:
    return None
  compiled = files.cache_folder('compiled')
  folder = compiled / f'jax-{jax.__version__}-{_processor()}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    remove_oldest(compiled, most_bytes)
  except OSError as error:
    log.info('Compiled programs are not kept: %s', error)
    return None
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _SHORTEST)
  return folder


def remove_oldest(compiled: pathlib.Path, most_bytes: int) -> None:
  """Removes the oldest programs until the others take `most_bytes` or less."""
  programs = []
  for path in compiled.glob('jax-*/*-cache'):
    with contextlib.suppress(FileNotFoundError):  # another process removed it
      programs.append((path.stat().st_mtime, path.stat().st_size, path))
  kept = 0
  for _, size, path in sorted(programs, reverse=True):
    kept += size
    if kept > most_bytes:
      path.unlink(missing_ok=True)


def _processor() -> str:
  """A name for what this machine's processor can do."""
  words = [platform.machine(), platform.processor()]
  with contextlib.suppress(OSError), open('/proc/cpuinfo') as lines:
    words += [s for s in lines if s.startswith(('flags', 'Features'))][:1]
  digest = hashlib.sha256('\n'.join(words).encode()).hexdigest()[:8]
  return f'{platform.machine() or os.name}-{digest}'
