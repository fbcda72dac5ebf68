"""What a run is made with: versions, command, git, devices."""

import functools
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

_ROOT = pathlib.Path(__file__).parents[3]


def environment() -> dict[str, Any]:
  """All that is known of this start, as JSON has it."""
  device = jax.devices()[0]
  return dict(
    command=shlex.join([sys.executable, *sys.argv]),
    git=git_state(_ROOT),
    processes=jax.process_count(),
    devices=f'{jax.device_count()} x {device.device_kind}',
    host=platform.node(),
    python=platform.python_version(),
    packages=packages(),
  )


@functools.cache  # they take a second to read
def packages() -> dict[str, str]:
  """The version of every package that Python finds."""
  return {
    name: version
    for name, version in sorted(
      (d.metadata['Name'] or '', d.version)
      for d in importlib.metadata.distributions()
    )
    if name
  }


def git_state(folder: pathlib.Path) -> dict[str, Any] | None:
  """The commit, and the files changed since; None outside a checkout."""

  def git(*words):
    done = subprocess.run(
      ['git', '-C', str(folder), *words], capture_output=True, text=True
    )
    done.check_returncode()
    return done.stdout

  try:
    return dict(
      commit=git('rev-parse', 'HEAD').strip(),
      changed=git('status', '--porcelain').splitlines(),
      diff=git('diff', 'HEAD', '--shortstat').strip(),
    )
  except (OSError, subprocess.CalledProcessError):
    return None
