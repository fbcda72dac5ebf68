"""Lists, verifies and deletes the checkpoints of a run.

pixeldit checkpoints --workdir=runs/xl256           # sizes of files
pixeldit checkpoints --workdir=runs/xl256 --verify  # every byte
pixeldit checkpoints --workdir=runs/xl256 --keep=2 --keep_period=50000 \
  --best=fid             # lists what this rule would delete
... --delete             # and deletes it, once every byte was read

The newest intact checkpoint is never deleted, and nothing while the run trains.
Exit code 1 says that a checkpoint is damaged, or that nothing could be done.
"""

import os
import sys
from typing import Any

from absl import flags

from pixeldit_jax.cli import path_flag, run_command
from pixeldit_jax.errors import UserError

_WORKDIR = path_flag.define_workdir()
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Read every byte; else the sizes of files are compared.'
)
_KEEP = flags.DEFINE_integer(
  'keep', None, 'The rule: this many of the newest stay.', lower_bound=1
)
_PERIOD = flags.DEFINE_integer(
  'keep_period', 0, 'And every so many steps; 0 is none.', lower_bound=0
)
_BEST = flags.DEFINE_string(
  'best', None, 'And the best by this number, shown above all others.'
)
_BEST_IS = flags.DEFINE_enum(
  'best_is', None, ['lowest', 'highest'], 'What of it is best.'
)
_DAMAGED = flags.DEFINE_bool('damaged', False, 'Damaged ones go too.')
_DELETE = flags.DEFINE_bool('delete', False, 'Delete; else only list.')


def main():
  if _KEEP.value is None and (_DELETE.value or _PERIOD.value or _DAMAGED.value):
    raise UserError('a rule needs --keep=N, how many stay.')
  os.environ['JAX_PLATFORMS'] = 'cpu'  # leaves the chips to the run
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.train.checkpoint import inventory
  from pixeldit_jax.train.run.workdir import read_config

  start_log(level='ERROR')  # the table shows what is damaged
  run = _WORKDIR.value
  gone: list[inventory.Entry] = []
  checkpoint = read_config(run).checkpoint
  best = checkpoint.best if _BEST.value is None else _BEST.value
  rule: dict[str, Any] = dict(
    keep=_KEEP.value,
    period=_PERIOD.value,
    best=best,
    best_is=_BEST_IS.value or checkpoint.best_is,
    damaged=_DAMAGED.value,
  )
  if _DELETE.value:
    found, gone = inventory.delete(run, **rule)
  else:
    found = inventory.entries(run, checksums=_VERIFY.value)
  print(inventory.table(found, best) if found else 'There is none.')
  if _DELETE.value:
    print(f'Deleted: {_steps(gone)}.')
  elif _KEEP.value is not None:
    chosen = inventory.to_delete(found, **rule)
    print(f'--delete would delete: {_steps(chosen)}.')
  damaged = [e for e in found if not (e.intact or e.put_aside or e in gone)]
  sys.exit(bool(damaged))


def _steps(entries):
  return ', '.join(f'{entry.step:,}' for entry in entries) or 'none'


if __name__ == '__main__':
  run_command.run(main)
