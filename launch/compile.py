"""Compiles a configuration for TPUs that are not there, and reports on it.

  pixeldit compile --config=imagenet256 --topology=v5e:4x4

--what=train   one training step
--what=sample  the complete sampling loop

Prints parameters, operations, memory of a chip against its HBM, traffic of each
kind of collective, recomputation, and the least time that the chip's published
rates allow; --json=FILE writes them too. Needs libtpu:
pip install 'pixeldit_jax[tpu]'.

In a clone, --table=launch/README.md instead compiles the rows of
.ci/compile_table.py and writes their tables into that file, between its
comments for them. --rows=2,5 compiles only these and keeps the others.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from pixeldit_jax import outputs
from pixeldit_jax.cli import config_flag, path_flag, run_command
from pixeldit_jax.errors import UserError

_CONFIG = config_flag.define(
  'A name (imagenet256:size=XL), a file or a run; --config.key=value changes '
  'one value.',
  required=False,
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'TPU slice, as v5e:4x4; --config.mesh.slices=2 takes two.'
)
_WHAT = flags.DEFINE_enum(
  'what', 'train', ['train', 'sample'], 'What to compile.'
)
_JSON = path_flag.define('json', None, 'File for the figures.')
_TABLE = path_flag.define('table', None, 'File to write the tables into.')
_ROWS = flags.DEFINE_list('rows', [], 'Rows of the tables to compile, from 1.')


def main():
  if _TABLE.value:
    return _write_table()
  if _CONFIG.value is None or not _TOPOLOGY.value:
    raise UserError('give --config and --topology, or only --table.')
  outputs.check(filter(None, [_JSON.value]))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # no TPU is needed
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.compile_report import report as compiled
  from pixeldit_jax.compile_report.tpu_topology import OutOfMemory

  start_log()
  try:
    report = compiled.compile_report(
      _CONFIG.value, _TOPOLOGY.value, _WHAT.value
    )
  except OutOfMemory as error:
    report = dict(out_of_memory=error.lines)
  for line in compiled.describe(report):
    print(line)
  if _JSON.value:
    with outputs.replacing(_JSON.value) as made:
      made.write_text(json.dumps(report, indent=2) + '\n')
  if 'out_of_memory' in report:
    raise UserError('out of memory.')


def _write_table():
  """Starts the maintainers' tool that compiles the rows of the tables."""
  root = pathlib.Path(__file__).resolve().parents[1]
  tool = root / '.ci' / 'compile_table.py'
  if not tool.is_file():
    raise UserError('--table: only in a clone of the project.')
  command = [sys.executable, str(tool), str(_TABLE.value), *_ROWS.value]
  sys.exit(subprocess.run(command).returncode)


if __name__ == '__main__':
  run_command.run(main)
