"""Writes the tables of what the TPU compiler says of this project's recipes.

python .ci/compile_table.py launch/README.md      # all rows, two CPU hours
python .ci/compile_table.py launch/README.md 2 5  # these, from 1
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pixeldit_jax import files

LAUNCHER = pathlib.Path(__file__).resolve().parents[1] / 'launch' / 'compile.py'

IMAGENET_256 = '--config=configs/imagenet256.py:size=XL'
NO_REPA = '--config.repa.weight=0'
PLAIN_256 = [IMAGENET_256, NO_REPA]
PLAIN_512 = ['--config=configs/imagenet512.py:size=XL', NO_REPA]
KEPT = '--config.model.patch_remat=matmuls'
STAGE_3 = ['--config=configs/t2i_1024_stage3.py', KEPT]

# Name, topology, batch, and the other flags of launch/compile.py.
Row = tuple[str, str, int, list[str]]
NETWORKS: list[Row] = [
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
  (
    'XL-256, all pixels attend',
    'v5e:4x4',
    16,
    [
      *PLAIN_256,
      '--config.model.pixel_attention=full',
      '--config.mesh.sequence=4',
    ],
  ),
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


def _over(
  name: str, flags: list[str], *slices: tuple[int, str, int, int]
) -> Iterator[Row]:
  """Rows of one recipe: number of slices, topology, batch, data axis.

  Each has a mesh whose share of every width is a multiple of 16 rows, the tile
  of bfloat16: then gradients are scattered as they are summed.
  """
  for count, topology, batch, data in slices:
    mesh = [f'--config.mesh.data={data}', f'--config.mesh.slices={count}']
    yield name, topology, batch, [*flags, *mesh]


CHIPS: list[Row] = [
  *_over(
    'XL-256',
    PLAIN_256,
    (1, 'v4:4x4x4', 1024, 16),
    (1, 'v5e:8x8', 1024, 8),
    (1, 'v5p:4x4x4', 1024, 16),
    (1, 'v6e:8x8', 1024, 8),
    (1, 'tpu7x:2x4x4', 1024, 16),
    (2, 'v5e:8x8', 2048, 16),
    (2, 'v6e:8x8', 2048, 16),
    (2, 'tpu7x:2x4x4', 2048, 32),
  ),
  *_over(
    'XL-256, REPA',
    [IMAGENET_256, '--config.repa.weight=0.5'],
    (1, 'v5p:4x4x4', 1024, 16),
  ),
  *_over(
    'XL-512',
    PLAIN_512,
    (1, 'v4:4x4x4', 256, 16),
    (1, 'v5e:8x8', 256, 8),
    (1, 'v5p:4x4x4', 256, 16),
    (1, 'v6e:8x8', 256, 8),
    (1, 'tpu7x:2x4x4', 256, 16),
    (2, 'v6e:8x8', 512, 16),
  ),
  *_over(
    'T2I-1024, stage 3',
    STAGE_3,
    (1, 'v4:8x8x4', 768, 32),
    (1, 'v5p:8x8x4', 768, 32),
    (1, 'v6e:16x16', 768, 32),
    (1, 'tpu7x:4x4x8', 768, 32),
    (2, 'v5p:8x8x4', 1536, 64),
  ),
]


def network_line(row: Row, report: dict) -> list[str]:
  """The cells of the table of networks."""
  moved, times = report['collectives'], report['roofline']
  return [
    *_recipe(row, report),
    '{patch}, {pixel}'.format(**report['remat']),
    _gigabytes(report['memory']['peak']),
    f'{sum(kind["per_parameter"] for kind in moved.values()):.2f}',
    f'{report["extra_flops"]:.1%}',
    _least_time(times),
    f'{report["roofline_mfu"]:.0%}',
    f'{report["seconds"]["compile_cpu"]:.0f} s',
  ]


def chip_line(row: Row, report: dict) -> list[str]:
  """The cells of the table of chips."""
  chip, times = report['chip'], report['roofline']
  kinds = report['collectives'].values()
  inside = sum(kind['bytes'] for kind in kinds)
  overlapped = sum(kind['overlapped'] for kind in kinds)
  has_others = report['slices'] > 1
  return [
    *_recipe(row, report),
    _gigabytes(report['memory']['peak']),
    f'{times["compute"] * chip["flops"] / 1e12:.1f}',
    f'{times["hbm"] * chip["hbm_rate"] / 1e9:.0f}',
    _gigabytes(inside),
    f'{overlapped / inside if inside else 0:.0%}',
    _gigabytes(report['between_slices']['bytes']) if has_others else '',
    _least_time(times),
    f'{report["roofline_mfu"]:.0%}',
  ]


def _recipe(row: Row, report: dict) -> list[str]:
  """The cells that both tables begin with."""
  name, topology, batch, _ = row
  if report['slices'] > 1:
    topology = f'{report["slices"]} x {topology}'
  mesh = ', '.join(f'{axis} {n}' for axis, n in report['mesh'].items())
  return [name, topology, mesh, str(batch)]


def _gigabytes(count: float) -> str:
  return f'{count / 1e9:.2f}'


def _least_time(times: dict) -> str:
  kinds = 'compute', 'hbm', 'interconnect', 'network'
  return f'{times["seconds"] * 1e3:.0f} ms ({max(kinds, key=times.get)})'


class Table(NamedTuple):
  """A table of a file, between two comments with its name."""

  name: str
  header: str
  rows: list[Row]
  line: Callable[[Row, dict], list[str]]


TABLES = [
  Table(
    'networks',
    'run | topology | mesh | batch | remat | peak GB | gathers, scatters | '
    'extra FLOPs | at least | MFU at most | CPU to compile',
    NETWORKS,
    network_line,
  ),
  Table(
    'chips',
    'run | topology | mesh | batch | peak GB | TFLOP | HBM GB | links GB | '
    'overlapped | between slices GB | at least | MFU at most',
    CHIPS,
    chip_line,
  ),
]


def write_tables(path: pathlib.Path, numbers: list[int]) -> None:
  """Compiles rows and writes them into a file, one after the other.

  Each row is compiled in a process of its own, for the compiler does not give
  its memory back.

  Args:
    path: has the comments of `TABLES`; what is between them is replaced.
    numbers: of the rows, from 1 over both tables; all if empty.
  """
  for table in TABLES:
    _split(path, table)  # before hours of work
  all_rows = [(table, k) for table in TABLES for k in range(len(table.rows))]
  for number in numbers or range(1, len(all_rows) + 1):
    table, k = all_rows[number - 1]
    cells = _cells(table, table.rows[k])
    head, old, tail = _split(path, table)
    lines = old.strip().splitlines()[2:]
    lines += ['|'] * (len(table.rows) - len(lines))
    lines[k] = f'| {" | ".join(cells)} |'
    rule = '|' + ' --- |' * (table.header.count('|') + 1)
    text = '\n'.join(['', f'| {table.header} |', rule, *lines, ''])
    with files.replacing(path) as temporary:
      temporary.write_text(head + text + tail)


def _split(path: pathlib.Path, table: Table) -> tuple[str, str, str]:
  """The text with the comment that begins a table, the table, and the rest."""
  begin, end = (f'<!-- {table.name}: {word} -->' for word in ('begin', 'end'))
  text = path.read_text()
  if begin not in text or end not in text:
    sys.exit(f'{path} has no lines {begin} and {end} for a table.')
  head, rest = text.split(begin, 1)
  old, tail = rest.split(end, 1)
  return head + begin, old, end + tail


def _cells(table: Table, row: Row) -> list[str]:
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
    report = json.loads(file.read_text())
  if 'out_of_memory' in report:
    lines = report['out_of_memory'][:2]
    return [name, topology, '', str(batch), '; '.join(lines)]
  return table.line(row, report)


if __name__ == '__main__':
  write_tables(pathlib.Path(sys.argv[1]), [int(row) for row in sys.argv[2:]])
