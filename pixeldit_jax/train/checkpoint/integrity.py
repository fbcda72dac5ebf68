"""Whether a checkpoint on disk is what was written.

Just before a checkpoint is committed, the size and CRC-32 of each of its files
go into `files.json` among them. What was truncated, lost or changed later is
found by it.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

FILES = 'files.json'
# Orbax completes this one after the commit; nothing is restored from it.
_UNCOUNTED = (FILES, '_CHECKPOINT_METADATA')


def write_files(folder: epath.Path) -> None:
  """Lists all files below a checkpoint that is complete but not committed."""
  listed = {
    name: [path.stat().length, _crc32(path)] for name, path in _walk(folder)
  }
  (folder / FILES).write_text(json.dumps(listed, indent=1) + '\n')


def damage(
  folder: epath.Path,
  *,
  checksums: bool,
  part: str = '',
  process_index: int = 0,
  process_count: int = 1,
) -> list[str]:
  """What is wrong with a checkpoint, a line for each file; whole if empty.

  Args:
    folder: of one step.
    checksums: read all files; else their sizes alone are compared.
    part: the item to look at, all by default.
    process_index: reads every process_count-th file.
    process_count: the processes that share the reading.
  """
  try:
    listed = json.loads((folder / FILES).read_text())
  except (OSError, ValueError) as error:
    return [f'{FILES} cannot be read ({error})']
  found = []
  names = [name for name in sorted(listed) if name.startswith(part)]
  if not names:
    return [f'{part} was not saved']
  for name in names[process_index::process_count]:
    size, crc = listed[name]
    path = folder / name
    if not path.exists():
      found.append(f'{name} is missing')
    elif (actual := path.stat().length) != size:
      found.append(f'{name} has {actual:,} bytes of {size:,}')
    elif checksums and _crc32(path) != crc:
      found.append(f'{name} has other bytes than were written')
  return found


def describe(damaged: Mapping[int, Sequence[str]]) -> str:
  """A line for each damaged checkpoint: its step and its first few files."""

  def files(found):
    if not found:
      return 'files that other processes read'
    more = [f'and {len(found) - 3} more'] if len(found) > 3 else []
    return '; '.join([*found[:3], *more])

  return '\n'.join(
    f'  step {step}: {files(found)}' for step, found in sorted(damaged.items())
  )


def size_of(folder: epath.Path) -> int:
  """Bytes of all files."""
  return sum(path.stat().length for _, path in _walk(folder))


def _walk(folder: epath.Path, prefix='') -> Iterator[tuple[str, epath.Path]]:
  """Relative names and paths of the files that count."""
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _walk(path, f'{prefix}{path.name}/')
    elif path.name not in _UNCOUNTED:
      yield prefix + path.name, path


def _crc32(path: epath.Path) -> int:
  crc = 0
  with path.open('rb') as file:
    while block := file.read(1 << 22):
      crc = zlib.crc32(block, crc)
  return crc
