"""launch/compile.py: its flags, and the table that --table writes."""

import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def compile_for_tpu(*flags):
  return subprocess.run(
    [sys.executable, 'launch/compile.py', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  'flags, named',
  [
    ([], 'only --table'),
    (['--config=mnist'], 'only --table'),
    (['--config=configs/mnist.py', '--topology=v5e:4x4', 'x'], "'x'"),
  ],
)
def test_wrong_flags_are_one_line(flags, named):
  done = compile_for_tpu(*flags)
  assert done.returncode == 1 and named in done.stderr
  assert done.stderr.startswith('compile: ') and done.stderr.count('\n') == 1


def test_a_file_without_marks_for_the_table_is_refused(tmp_path):
  file = tmp_path / 'README.md'
  file.write_text('nothing here')
  done = compile_for_tpu(f'--table={file}')
  assert done.returncode == 1 and 'networks: begin' in done.stderr
  assert file.read_text() == 'nothing here'


def test_rows_of_the_tables():
  tool = runpy.run_path(str(ROOT / '.ci' / 'compile_table.py'))
  moved = dict(
    gather=dict(per_parameter=2, bytes=3e9, overlapped=1.5e9),
    sums=dict(per_parameter=1, bytes=1e9, overlapped=0),
  )
  report = dict(
    slices=2,
    mesh=dict(data=16, fsdp=4),
    remat=dict(patch='matmuls', pixel='full'),
    memory=dict(peak=11.58e9),
    collectives=moved,
    between_slices=dict(bytes=2e8),
    extra_flops=0.115,
    roofline=dict(
      compute=0.104, hbm=0.1, interconnect=0.01, network=0, seconds=0.104
    ),
    roofline_mfu=0.62,
    seconds=dict(compile_cpu=98.4),
    chip=dict(flops=459e12, hbm_rate=2765e9),
  )
  row = 'XL', 'v5p:4x4x4', 2048, []
  assert ' | '.join(tool['network_line'](row, report | dict(slices=1))) == (
    'XL | v5p:4x4x4 | data 16, fsdp 4 | 2048 | matmuls, full | 11.58 | 3.00 '
    '| 11.5% | 104 ms (compute) | 62% | 98 s'
  )
  assert ' | '.join(tool['chip_line'](row, report)) == (
    'XL | 2 x v5p:4x4x4 | data 16, fsdp 4 | 2048 | 11.58 | 47.7 | 276 | 4.00 '
    '| 38% | 0.20 | 104 ms (compute) | 62%'
  )
  for table in tool['TABLES']:
    line = table.line(row, report)
    assert len(line) == table.header.count('|') + 1
