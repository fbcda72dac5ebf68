"""Flags of all commands: how large what they read may be.

They set the environment of the process, which its workers inherit.
"""

import os

from absl import flags

from pixeldit_jax import files

flags.disclaim_key_flags()  # `run_command` lists them itself
_FLAGS = {
  files.MAX_BYTES: flags.DEFINE_integer(
    'max_bytes',
    None,
    'Bytes that a file, a member of an archive or a group of rows may take at '
    f'once ({files.LIMITS[files.MAX_BYTES]} by default).',
    lower_bound=1,
  ),
  files.MAX_PIXELS: flags.DEFINE_integer(
    'max_pixels',
    None,
    'Pixels of an image that is decoded '
    f'({files.LIMITS[files.MAX_PIXELS]} by default).',
    lower_bound=1,
  ),
}


def apply() -> None:
  """Takes over the limits that were given."""
  for name, flag in _FLAGS.items():
    if flag.value is not None:
      os.environ[name] = str(flag.value)


def describe() -> str:
  """A line for each flag."""
  return '\n'.join(
    f'  --{flag.name}: {flags.FLAGS[flag.name].help}'
    for flag in _FLAGS.values()
  )
