"""What commands write for people: nothing but our own files is ever replaced.

Beside the results of a command lies `.pixeldit-outputs.jsonl`, a line for each
file: its name, its size and a sum of its ends. What is there and is not listed
so belongs to somebody else: it is named and refused before any work. A line is
added before the file gets its name, so that a kill leaves no file without one.
In a bucket each object says so itself (see `buckets`).
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator

from etils import epath

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import buckets

MANIFEST = '.pixeldit-outputs.jsonl'
_ENDS = 1 << 20  # bytes at each end of a file that its sum is of
_SHOWN = 3  # names in a message


def local(path: str | os.PathLike) -> pathlib.Path:
  """A path on a disk of this machine; `~` is the home folder.

  Raises:
    UserError: it is in a bucket or the like.
  """
  text = os.fspath(path)
  if found := re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', text):
    raise UserError(
      f'{text}: {found[1]}:// cannot be written here. Write to a disk, and '
      'copy the result.'
    )
  return pathlib.Path(text).expanduser()


def path_of(path: str | os.PathLike) -> epath.Path:
  """A path on a disk of this machine, or in a bucket that can be used.

  Raises:
    UserError: a place of another kind; or see `buckets.check`.
  """
  if buckets.is_remote(path):
    buckets.check(path)
    return epath.Path(path)
  return local(path)


def check(
  paths: Iterable[str | os.PathLike],
  home: pathlib.Path | epath.Path | None = None,
) -> None:
  """Raises UserError unless all files there are ours, or there are none.

  And unless there is a folder above each that may be written to.

  Args:
    paths: of files and folders, before they are replaced.
    home: a folder above them that has the manifest, where other programs read
      all files next to them; that of each path by default.
  """
  foreign: list[str] = []
  for path in map(path_of, paths):
    if buckets.is_remote(path):
      foreign += buckets.foreign(path)
      continue
    path = pathlib.Path(path)
    _check_folder_above(path)
    folder = pathlib.Path(home or path.parent)
    known = _read(folder)
    for name, file in _files_of(path, folder):
      if _sum(file) not in known.get(name, ()):
        foreign.append(str(file))
  if foreign:
    more = f' and {len(foreign) - _SHOWN} more' if foreign[_SHOWN:] else ''
    raise UserError(
      f'{", ".join(map(ascii, foreign[:_SHOWN]))}{more}: not written by this '
      'command, or changed since. It is never replaced: move it away, or '
      'choose another --out.'
    )


def _check_folder_above(path: pathlib.Path) -> None:
  """Raises UserError unless the lowest that is there can have more in it."""
  above = next(p for p in path.absolute().parents if os.path.lexists(p))
  if not above.is_dir():
    reason = 'is a file; choose a folder'
  elif not os.access(above, os.W_OK | os.X_OK):
    reason = 'may not be written to; choose another folder'
  else:
    return
  raise UserError(f'{path} cannot be written: {above} {reason}.')


@contextlib.contextmanager
def replacing(
  path: str | os.PathLike, home: pathlib.Path | epath.Path | None = None
) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` if the block succeeds.

  What was there is removed if it is ours. The block may make a file or a
  folder. For `home` see `check`.

  Raises:
    UserError: somebody else's file is there.
  """
  if buckets.is_remote(path):
    check([path])
    with files.replacing(path) as sent:
      yield pathlib.Path(sent)
    return
  target = local(path)
  check([target], home)
  target.parent.mkdir(parents=True, exist_ok=True)
  with files.temporary(target) as made:
    yield pathlib.Path(made)
    _note(target, pathlib.Path(made), pathlib.Path(home or target.parent))
    check([target], home)  # again: the block may have taken hours
    remove([target])
    os.replace(made, target)


def remove(paths: Iterable[pathlib.Path | epath.Path]) -> None:
  """Removes files and folders that `check` found to be ours."""
  for one in paths:
    if buckets.is_remote(one):
      buckets.remove_below(one)
      continue
    path = pathlib.Path(one)
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)


def _files_of(
  path: pathlib.Path, home: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path]]:
  """The file, or those in a folder, by their names below `home`."""
  if path.is_dir() and not path.is_symlink():
    for folder, _, names in os.walk(path):
      for name in names:
        file = pathlib.Path(folder) / name
        yield file.relative_to(home).as_posix(), file
  elif os.path.lexists(path):
    yield path.relative_to(home).as_posix(), path


def _sum(file: pathlib.Path) -> list[int]:
  """Size, and CRC-32 of the first and last MiB: enough to know a file again."""
  if not file.is_file() or file.is_symlink():
    return [-1, 0]  # never ours
  size = file.stat().st_size
  with open(file, 'rb') as stream:
    sum_of_ends = zlib.crc32(stream.read(_ENDS))
    if size > _ENDS:
      stream.seek(max(_ENDS, size - _ENDS))
      sum_of_ends = zlib.crc32(stream.read(_ENDS), sum_of_ends)
  return [size, sum_of_ends]


def adopt(home: pathlib.Path, names: Iterable[str]) -> None:
  """Lists files in `home` that are known to be ours by what they hold."""
  _list(home, [(name, home / name) for name in names])


def _note(target: pathlib.Path, made: pathlib.Path, home: pathlib.Path) -> None:
  """Adds a line for each file of what is about to be `target`."""
  found = _files_of(made, made)
  _list(
    home, [((target / n).relative_to(home).as_posix(), f) for n, f in found]
  )


def _list(home: pathlib.Path, named: list[tuple[str, pathlib.Path]]) -> None:
  lines = [json.dumps([name, *_sum(file)]) for name, file in named]
  # Appended in one go: several processes may write to one folder.
  with open(home / MANIFEST, 'a') as manifest:
    manifest.write(''.join(f'{line}\n' for line in lines))


def _read(folder: pathlib.Path) -> dict[str, list[list[int]]]:
  """What a manifest lists of each name; all that the name once was."""
  path = folder / MANIFEST
  known: dict[str, list[list[int]]] = {}
  if not path.is_file():
    return {}
  for line in path.read_text().splitlines():
    with contextlib.suppress(ValueError, TypeError):  # cut off by a kill
      name, size, sum_of_ends = json.loads(line)
      known.setdefault(name, []).append([size, sum_of_ends])
  return known
