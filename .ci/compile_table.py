"""Writes the table of what the TPU compiler says of this project's recipes.

python .ci/compile_table.py launch/README.md      # all rows, an hour or so
python .ci/compile_table.py launch/README.md 2 5  # these, from 1
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

LAUNCHER = pathlib.Path(__file__).resolve().parents[1] / 'launch' / 'compile.py'

BEGIN, END = '<!-- compiled: begin -->', '<!-- compiled: end -->'
IMAGENET_256 = '--config=configs/imagenet256.py:size=XL'
NO_REPA = '--config.repa.weight=0'
PLAIN_256 = [IMAGENET_256, NO_REPA]
PLAIN_512 = ['--config=configs/imagenet512.py:size=XL', NO_REPA]
KEPT = '--config.model.patch_remat=matmuls'
STAGE_1 = ['--config=configs/t2i_512_stage1.py', KEPT]
STAGE_3 = ['--config=configs/t2i_1024_stage3.py', KEPT]

# Name, topology, batch, and the other flags of launch/compile.py.
ROWS = [
  (
    'XL-256, full remat',
    'v5e:4x4',
    256,
    [
      *PLAIN_256,
      '--config.model.patch_remat=full',
      '--config.model.pixel_remat=full',
    ],
  ),
  (
    'XL-256, products kept',
    'v5e:4x4',
    256,
    [*PLAIN_256, '--config.model.pixel_remat=matmuls'],
  ),
  # Of meshes, one whose share of every width is a multiple of 16 rows, the tile
  # of bfloat16: then gradients are scattered as they are summed.
  ('XL-256', 'v5e:16x16', 2048, [*PLAIN_256, '--config.mesh.data=32']),
  ('XL-256', 'v5p:4x4x4', 2048, [*PLAIN_256, '--config.mesh.data=16']),
  (
    'XL-256, REPA',
    'v5p:4x4x4',
    2048,
    [IMAGENET_256, '--config.repa.weight=0.5', '--config.mesh.data=16'],
  ),
  ('XL-512', 'v5e:8x8', 256, [*PLAIN_512, '--config.mesh.data=8']),
  (
    'XL-256, channel',
    'v5p:4x4x4',
    64,
    [
      *PLAIN_256,
      '--config.model.pixel_attention=channel',
      '--config.model.pixel_remat=matmuls',
      '--config.mesh.data=4',
      '--config.mesh.sequence=4',
    ],
  ),
  ('T2I-512, stage 1', 'v5p:4x4x4', 1024, [*STAGE_1, '--config.mesh.data=16']),
  ('T2I-512, stage 1', 'v5p:8x8x4', 1024, [*STAGE_1, '--config.mesh.data=32']),
  ('T2I-1024, stage 3', 'v5p:8x8x4', 768, [*STAGE_3, '--config.mesh.data=32']),
  (
    'DiT-XL/2 at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=dit,size=XL', KEPT],
  ),
  (
    'DeCo-XL at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=deco,size=XL', NO_REPA],
  ),
  (
    'PixNerd-XL at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=pixnerd,size=XL', NO_REPA],
  ),
  (
    'PixelDiT2-H at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=pixeldit2,size=H', NO_REPA],
  ),
  (
    'PixelFlow-XL at 256, full remat',
    'v5e:4x4',
    256,
    [
      '--config=configs/imagenet256.py:model=pixelflow,size=XL',
      '--config.model.patch_remat=full',
    ],
  ),
  (
    'JiT-G at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=jit,size=G'],
  ),
  (
    'plain pixel DiT-XL at 256',
    'v5e:4x4',
    256,
    ['--config=configs/imagenet256.py:model=flatdit,size=XL', NO_REPA],
  ),
  (
    'XL-256, average velocity',
    'v5e:4x4',
    256,
    [
      *PLAIN_256,
      '--config.objective=mean_flow',
      '--config.model.mean_flow=added',
      '--config.sampler.solver=jump',
      '--config.sampler.steps=1',
    ],
  ),
]
HEADER = (
  '| run | topology | mesh | batch | remat | peak GB | gathers, scatters | '
  'extra FLOPs | at least | MFU at most | CPU to compile |'
)


def write_table(path: pathlib.Path, rows: list[int]) -> None:
  """Compiles the rows and writes them into a file, one after the other.

  Each row is compiled in a process of its own, for the compiler does not give
  its memory back.

  Args:
    path: has `BEGIN` and `END`; what is between them is replaced.
    rows: which of `ROWS`, from 1; all if empty.
  """
  text = path.read_text()
  if BEGIN not in text or END not in text:
    sys.exit(f'{path} has no lines {BEGIN} and {END} for the table.')
  head, _, rest = text.partition(BEGIN)
  old, _, tail = rest.partition(END)
  lines = [line for line in old.splitlines() if line.startswith('|')][2:]
  lines += ['|'] * (len(ROWS) - len(lines))
  for number in rows or range(1, len(ROWS) + 1):
    lines[number - 1] = _line(ROWS[number - 1])
    rule = '|' + ' --- |' * (HEADER.count('|') - 1)
    table = '\n'.join([BEGIN, HEADER, rule, *lines, END])
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(head + table + tail)
    os.replace(temporary, path)


def _line(row: tuple[str, str, int, list[str]]) -> str:
  name, topology, batch, more = row
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'report.json'
    command = [
      sys.executable,
      str(LAUNCHER),
      *more,
      f'--config.data.batch_size={batch}',
      f'--topology={topology}',
      f'--json={file}',
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if not file.is_file():
      sys.exit(f'{" ".join(command)}: {done.stderr[-2000:]}')
    print(name, done.stdout, sep='\n', flush=True)
    return table_line(name, topology, batch, json.loads(file.read_text()))


def table_line(name: str, topology: str, batch: int, report: dict) -> str:
  """One line of the table."""
  if 'out_of_memory' in report:
    return f'| {name} | {topology} | | {batch} | | ' + (
      '; '.join(report['out_of_memory'][:2]) + ' | | | | | |'
    )
  moved = report['collectives']
  times = report['roofline']
  kinds = 'compute', 'hbm', 'interconnect', 'network'
  busiest = max(kinds, key=times.get)
  cells = [
    name,
    topology,
    ', '.join(f'{axis} {n}' for axis, n in report['mesh'].items()),
    batch,
    '{patch}, {pixel}'.format(**report['remat']),
    f'{report["memory"]["peak"] / 1e9:.2f}',
    f'{_per_parameter(moved):.2f}',
    f'{report["extra_flops"]:.1%}',
    f'{times["seconds"] * 1e3:.0f} ms ({busiest})',
    f'{report["roofline_mfu"]:.0%}',
    f'{report["seconds"]["compile_cpu"]:.0f} s',
  ]
  return '| ' + ' | '.join(map(str, cells)) + ' |'


def _per_parameter(moved: dict) -> float:
  """Elements of all collectives over parameters."""
  return sum(kind['per_parameter'] for kind in moved.values())


if __name__ == '__main__':
  write_table(pathlib.Path(sys.argv[1]), [int(row) for row in sys.argv[2:]])
