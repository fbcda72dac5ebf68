"""What a source takes of memory does not grow with what it holds."""

import io
import os
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 100_000  # of a file; there are as many names of it as a case says
# Memory that is the process's own: mapped files do not count.
MEASURE = """
import sys
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.sources.open_source import open_source

def own():
  with open('/proc/self/status') as file:
    return next(int(l.split()[1]) for l in file if l.startswith('RssAnon'))

spec, small = sys.argv[1:]
options = LoaderOptions(
  resolution=8, batch_size=64, seed=3, num_threads=1, prefetch=1
)
for path in (small, spec):  # the first brings what any source takes
  before = own()
  source = open_source(path)
  batches = make_batches(source, options)
  for _ in range(50):
    next(batches)
  after = own()
  batches.close()
print(len(source), after - before)
"""


def parquet(path, data):
  rows = pa.array([data] * ROWS, pa.binary())
  table = pa.table({'image': rows, 'label': [i % 7 for i in range(ROWS)]})
  pq.write_table(table, path, use_dictionary=False)


def wds(path, data):
  with tarfile.open(path, 'w') as file:
    member = tarfile.TarInfo()
    member.size = len(data)
    for i in range(ROWS):
      member.name = f'{i:08d}.png'
      file.addfile(member, io.BytesIO(data))


@pytest.mark.slow
@pytest.mark.parametrize(
  'write, suffix, files',
  [(parquet, 'parquet', 100), (wds, 'tar', 5)],
  ids=['parquet', 'wds'],
)
def test_millions_of_rows_take_the_memory_of_a_few(
  tmp_path, encode, write, suffix, files
):
  """Ten million rows of Parquet, half a million of tars (read whole once)."""
  small, large = tmp_path / 'small', tmp_path / 'large'
  small.mkdir()
  large.mkdir()
  file = small / f'file.{suffix}'
  write(file, encode(0))
  for k in range(files):
    os.link(file, large / f'{k:05d}.{suffix}')
  taken = []
  for _ in range(2):  # the first makes the index
    run = subprocess.run(
      [sys.executable, '-c', MEASURE, large, small],
      capture_output=True,
      text=True,
      check=True,
    )
    rows, kilobytes = map(int, run.stdout.split())
    assert rows == files * ROWS
    taken.append(kilobytes)
  # As much as the files take that are scanned at the same time; then nothing.
  assert taken[0] < 200_000
  assert taken[1] < 2_000
