"""Compiles a configuration for TPUs, without any: --topology=v5e:4x4.

--config=configs/imagenet256.py --what=train   one training step
--config=configs/imagenet256.py --what=sample  the whole sampling loop

Prints parameters, operations, memory of a chip against its HBM, traffic of each
kind of collective, recomputation, and the least time that the chip's published
rates allow; --json=FILE writes them too. Needs libtpu:
pip install 'pixeldit_jax[tpu]'.

--table=launch/README.md instead compiles the rows of eval/compiled_table.py,
each in a process of its own, and writes their table into that file, between the
marks it has for it. --rows=2,5 compiles these alone and keeps the others.
"""

import json
import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from pixeldit_jax.cli import run_command

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File of the run; --config.key=value changes one value.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'TPU slice, as v5e:4x4; --config.mesh.slices=2 takes two.'
)
_WHAT = flags.DEFINE_enum(
  'what', 'train', ['train', 'sample'], 'What to compile.'
)
_JSON = flags.DEFINE_string('json', None, 'File for the figures.')
_TABLE = flags.DEFINE_string('table', None, 'File to write the table into.')
_ROWS = flags.DEFINE_list('rows', [], 'Rows of the table to compile, from 1.')


@flags.multi_flags_validator(
  ['config', 'topology', 'table'],
  'Give --config and --topology, or --table alone.',
)
def _flags_agree(values):
  return values['table'] or (values['config'] and values['topology'])


def main():
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # the TPUs are not here
  from pixeldit_jax.compile_report import readme_table
  from pixeldit_jax.compile_report import report as compiled
  from pixeldit_jax.compile_report.tpu_topology import OutOfMemory

  try:
    if _TABLE.value:
      rows = [int(row) for row in _ROWS.value]
      readme_table.write_table(pathlib.Path(_TABLE.value), __file__, rows)
      return
    report = compiled.compile_report(
      _CONFIG.value, _TOPOLOGY.value, _WHAT.value
    )
  except OutOfMemory as error:
    report = dict(out_of_memory=error.lines)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'compile.py: {error}')
  for line in compiled.describe(report):
    print(line)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(report, indent=2) + '\n')
  if 'out_of_memory' in report:
    sys.exit('compile.py: out of memory.')


if __name__ == '__main__':
  run_command.run(main)
