"""Checkpoint integrity: a manifest of size and CRC-32 for each file.

It is written as `files.json` just before a checkpoint is committed. Files that
were truncated, lost or changed later are found by it, and a start goes on from
the newest checkpoint that is intact.
"""

import concurrent.futures
import json
import logging
from collections.abc import Iterator, Mapping, Sequence

import jax
from etils import epath

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.checkpoint.folders import DAMAGED
from pixeldit_jax.train.run import multihost

log = logging.getLogger(__name__)

FILES = 'files.json'
# Orbax completes this one after the commit; nothing is restored from it.
_UNCOUNTED = (FILES, '_CHECKPOINT_METADATA')


def write_manifest(folder: epath.Path) -> None:
  """Lists all files of a checkpoint that is complete but not committed."""
  listed = {
    name: [path.stat().length, files.crc32(path)]
    for name, path in _walk(folder)
  }
  (folder / FILES).write_text(json.dumps(listed, indent=1) + '\n')


def verify(
  folder: epath.Path,
  *,
  checksums: bool,
  part: str = '',
  process_index: int = 0,
  process_count: int = 1,
) -> list[str]:
  """Compares a checkpoint with its manifest.

  Args:
    folder: of one step.
    checksums: read all files; else only their sizes are compared.
    part: the item to verify, all by default.
    process_index: verifies every process_count-th file.
    process_count: the processes that share the reading.

  Returns:
    What is wrong, a line for each file; empty if it is intact.
  """
  try:
    listed = json.loads((folder / FILES).read_text())
  except (OSError, ValueError, RecursionError) as error:
    return [f'{FILES} cannot be read ({error})']
  if not isinstance(listed, dict):
    return [f'{FILES} cannot be read (it is no object)']
  for name, entry in listed.items():
    if (
      files.differs(entry, [int])
      or len(entry) != 2
      or not files.is_inside(name)
    ):
      return [f'{FILES} cannot be read (at {name!a})']
  names = [name for name in sorted(listed) if name.startswith(part)]
  if not names:
    return [f'{part} was not saved']

  def damage_of(name):
    size, crc = listed[name]
    path = folder / name
    if not path.exists():
      return f'{name} is missing'
    if (actual := path.stat().length) != size:
      return f'{name} has {actual:,} bytes of {size:,}'
    if checksums and files.crc32(path) != crc:
      return f'{name} has other bytes than were written'
    return ''

  with concurrent.futures.ThreadPoolExecutor() as pool:
    mine = names[process_index::process_count]
    return list(filter(None, pool.map(damage_of, mine)))


def describe(damaged: Mapping[int, Sequence[str]]) -> str:
  """A line for each damaged checkpoint: its step and its first few files."""

  def first_of(found):
    if not found:
      return 'files that other processes read'
    more = [f'and {len(found) - 3} more'] if len(found) > 3 else []
    return '; '.join([*found[:3], *more])

  return '\n'.join(
    f'  step {step}: {first_of(found)}'
    for step, found in sorted(damaged.items())
  )


def newest_intact(
  folder: epath.Path, steps: Sequence[int], checksums: bool
) -> int | None:
  """Finds the checkpoint to go on from; moves damaged newer ones aside.

  Args:
    folder: of the checkpoints of a run.
    steps: of the checkpoints in it, ascending.
    checksums: see `verify`.

  Returns:
    Its step; None if there is no checkpoint.

  Raises:
    UserError: there are checkpoints, and all are damaged.
  """
  damaged: dict[int, list[str]] = {}
  for step in reversed(steps):
    found = verify(
      folder / str(step),
      checksums=checksums,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    if not multihost.in_any(bool(found)):
      if damaged:
        move_aside(folder, damaged, step)
      return step
    damaged[step] = found
  if damaged:
    raise UserError(
      f'no checkpoint in {folder} is intact:\n{describe(damaged)}\n'
      'Bring back the files that are missing or damaged; or start anew in '
      'another --workdir.'
    )
  return None


def move_aside(
  folder: epath.Path, damaged: Mapping[int, Sequence[str]], intact: int
) -> None:
  """Moves damaged checkpoints out of the way of later ones, and says so."""
  aside = folder.parent / DAMAGED
  log.error(
    'DAMAGED CHECKPOINTS, moved to %s:\n%s\nGoing on from step %d, the newest '
    'intact one.',
    aside,
    describe(damaged),
    intact,
  )
  if jax.process_index() == 0:
    aside.mkdir(exist_ok=True)
    for step in damaged:
      target = aside / str(step)
      if target.exists():
        target.rmtree()
      (folder / str(step)).rename(target)
  multihost.wait_for_all('damaged checkpoints are moved')


def size_of(folder: epath.Path) -> int:
  """Bytes of all files."""
  return sum(path.stat().length for _, path in _walk(folder))


def _walk(folder: epath.Path) -> Iterator[tuple[str, epath.Path]]:
  """Relative names and paths of the files that a manifest lists."""
  return (
    (name, path)
    for name, path in files.walk(folder)
    if path.name not in _UNCOUNTED
  )
