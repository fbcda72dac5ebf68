"""Lists the checkpoints of a run on disk, and deletes them by a rule.

Only files are read, so that a run may train meanwhile.
"""

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence

from etils import epath

from pixeldit_jax.errors import UserError
from pixeldit_jax.train.checkpoint import integrity, retention
from pixeldit_jax.train.checkpoint.folders import DAMAGED, folder_of, steps_in
from pixeldit_jax.train.run import lock, workdir

_SHOWN = 10  # damaged files of a checkpoint


@dataclasses.dataclass(frozen=True)
class Entry:
  """A checkpoint.

  Attributes:
    step: of the run.
    folder: its folder.
    age: seconds since it was written.
    size: bytes of all its files.
    damage: what is wrong, a line for each file; intact if empty.
    numbers: what evaluations found of it.
    put_aside: a start found it damaged, and moved it.
  """

  step: int
  folder: epath.Path
  age: float
  size: int
  damage: Sequence[str]
  numbers: Mapping[str, float]
  put_aside: bool = False

  @property
  def intact(self) -> bool:
    return not self.damage


def entries(run: str, *, checksums: bool) -> list[Entry]:
  """All checkpoints of a run by step, those that were put aside last.

  Args:
    run: the workdir.
    checksums: read all files; else only their sizes are compared.

  Raises:
    FileNotFoundError: there is no run.
  """
  workdir.read_config(run)
  numbers = workdir.read_evaluations(run)
  folder = folder_of(run)
  aside = folder.parent / DAMAGED
  return [
    _entry(
      parent / str(step), checksums, numbers.get(step, {}), parent == aside
    )
    for parent in (folder, aside)
    for step in steps_in(parent)
  ]


def _entry(folder, checksums, numbers, put_aside):
  return Entry(
    step=int(folder.name),
    folder=folder,
    age=time.time() - _written(folder),
    size=integrity.size_of(folder),
    damage=integrity.verify(folder, checksums=checksums),
    numbers=numbers,
    put_aside=put_aside,
  )


def _written(folder: epath.Path) -> float:
  """Seconds since 1970 at the commit; a copy of a run is as old as the run."""
  try:
    metadata = json.loads((folder / '_CHECKPOINT_METADATA').read_text())
    return metadata['commit_timestamp_nsecs'] / 1e9
  except (OSError, ValueError, KeyError, TypeError):
    return folder.stat().mtime


def table(found: Sequence[Entry], metric: str = '') -> str:
  """A line for each checkpoint, below a line of headings.

  Args:
    found: of `entries`.
    metric: the number to show; '' is all that there are.
  """
  rows = [('step', 'age', 'size', 'intact', metric or 'numbers')]
  for entry in found:
    age = datetime.timedelta(seconds=round(entry.age))
    shown = {
      name: f'{value:.6g}'
      for name, value in sorted(entry.numbers.items())
      if name == metric or not metric
    }
    rows.append(
      (
        f'{entry.step:,}',
        str(age),
        f'{entry.size / 1e9:.3f} GB',
        'aside' if entry.put_aside else 'yes' if entry.intact else 'NO',
        shown.get(metric, '  '.join(f'{k} {v}' for k, v in shown.items())),
      )
    )
  widths = [max(len(row[i]) for row in rows) for i in range(4)]
  lines = []
  damages = [(), *(entry.damage for entry in found)]  # none of the headings
  for row, damage in zip(rows, damages):
    cells = [cell.rjust(width) for cell, width in zip(row, widths)]
    lines.append('  '.join([*cells, row[4]]).rstrip())
    lines += [f'    {line}' for line in damage[:_SHOWN]]
    if damage[_SHOWN:]:
      lines.append(f'    and {len(damage) - _SHOWN} more')
  return '\n'.join(lines)


def to_delete(
  found: Sequence[Entry],
  *,
  keep: int,
  period: int = 0,
  best: str = '',
  best_is: str = 'lowest',
  damaged: bool = False,
) -> list[Entry]:
  """Those that a rule does not keep; never the newest intact one.

  Args:
    found: of `entries`.
    keep: how many of the newest intact ones stay.
    period: and all multiples of it; 0 for none.
    best: and the intact one with the best of this number; '' for none.
    best_is: lowest or highest.
    damaged: those that are damaged or put aside go too; else all of them stay.

  Raises:
    UserError: none is intact, or the number is not known of any.
  """
  intact = [e for e in found if e.intact and not e.put_aside]
  if not intact:
    raise UserError('no checkpoint is intact: none is deleted.')
  steps = [entry.step for entry in intact]
  numbers = {entry.step: entry.numbers for entry in intact}
  chosen = retention.best_step(steps, numbers, best, best_is)
  if best and chosen is None:
    known = sorted({name for entry in intact for name in entry.numbers})
    raise UserError(
      f'no intact checkpoint has a number {best!r}; there are {known}.'
    )
  kept = retention.kept(steps, newest=max(1, keep), period=period, best=chosen)
  bad = [e for e in found if e.put_aside or not e.intact] if damaged else []
  return [entry for entry in intact if entry.step not in kept] + bad


def delete(run: str, **rule) -> tuple[list[Entry], list[Entry]]:
  """Deletes what a rule does not keep, once every byte was read.

  The list of files goes first: one that is deleted in part is not intact.

  Args:
    run: the workdir.
    rule: of `to_delete`.

  Returns:
    All that were found, and those of them that are gone.

  Raises:
    FileNotFoundError: there is no run.
    UserError: a trainer holds the workdir, or as `to_delete`.
  """
  workdir.read_config(run)
  with lock.hold(run):
    found = entries(run, checksums=True)
    gone = to_delete(found, **rule)
    for entry in gone:
      (entry.folder / integrity.FILES).unlink(missing_ok=True)
      entry.folder.rmtree()
  return found, gone
