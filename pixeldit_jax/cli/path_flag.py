"""Flags that are paths: `~` is the home folder, and buckets only where read.

The shell expands `~` at the start of a word, not in --workdir=~/runs/x.
"""

import re
from collections.abc import Collection

from absl import flags

from pixeldit_jax.errors import UserError
from pixeldit_jax.files import expand_user

BUCKETS = ('gs', 's3')  # what a workdir, data and results can be in
HUB = ('hf',)  # and released weights
flags.disclaim_key_flags()  # a flag belongs to the command that defines it


def define(
  name: str,
  default: str | None,
  description: str,
  *,
  schemes: Collection[str] = (),
  kinds: bool = False,
  required: bool = False,
) -> flags.FlagHolder[str]:
  """Defines a flag for a path on a disk, or in a place of these schemes.

  Args:
    name: of the flag.
    default: the path without it.
    description: for --help.
    schemes: what may stand before '://', as 'gs'.
    kinds: whether a kind of data may stand before it, as 'folder:'; such
      values are read by `open_source`.
    required: whether it must be given.
  """
  return flags.DEFINE(
    _PathParser(name, schemes, kinds),
    name,
    default,
    description,
    serializer=flags.ArgumentSerializer(),
    required=required,
  )


def define_workdir(
  description: str = 'Folder of the run.',
) -> flags.FlagHolder[str]:
  """Defines --workdir, which must be given."""
  return define('workdir', None, description, required=True, schemes=BUCKETS)


def define_out(
  description: str = 'Folder to write to; made if absent.',
  default: str | None = None,
  required: bool = True,
) -> flags.FlagHolder[str]:
  """Defines --out, a folder or file on a disk or in a bucket."""
  return define('out', default, description, required=required, schemes=BUCKETS)


class _PathParser(flags.ArgumentParser):
  def __init__(self, name: str, schemes: Collection[str], kinds: bool):
    super().__init__()
    self._name, self._schemes, self._kinds = name, tuple(schemes), kinds

  def parse(self, argument: str) -> str:
    path = expand_user(argument)
    if self._kinds:
      return path
    # One slash is what is left of two where a path was made absolute.
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', path)
    whole = scheme and path.startswith(f'{scheme[1]}://')
    if scheme and not (whole and scheme[1] in self._schemes):
      known = [f'{name}://' for name in self._schemes]
      raise UserError(
        f'--{self._name}={argument}: {scheme[1]}:// is not supported here; '
        f'give {" or ".join(["a path on a disk", *known])}.'
      )
    return path
