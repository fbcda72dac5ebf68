"""Measures and draws cost against work, for launch/scale.md.

python .ci/scale.py launch         # measures what is not yet, draws all
python .ci/scale.py launch tokens  # measures these panels anew, draws all

Measurements are kept in scale.json of the folder. Each runs in a process of its
own, since neither compilers nor mapped files give their memory back. On a
machine with other work the CPU time of a step says more than the clock does:
pin the tool to one core (taskset -c 1), then the two are equal on an idle one.
"""

import concurrent.futures
import math
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pixeldit_jax import files

Point = dict[str, Any]
STORE = 'scale.json'

# The small network: patches of 4, so that 512 pixels are 16,384 tokens.
SMALL = dict(
  patch_size=4,
  width=128,
  heads=2,
  patch_depth=2,
  pixel_depth=1,
  dtype='float32',
  scan=False,
  patch_remat='none',
  pixel_remat='none',
)
PATCH = SMALL['patch_size']
STEPS = {4096: 3, 16384: 1}  # that are timed, by tokens

ROWS_OF_FILE = 10_000  # pictures of one data file
PICTURE = 100  # bytes
DRAWN = 1_000
SEEDS = range(5)

CHIP_BATCH = 16
PARTS = 'compute', 'hbm', 'interconnect'


def small_network() -> Any:
  """The configuration of the small network; its images are still to say."""
  from pixeldit_jax.configs import imagenet256

  config = imagenet256.get_config('size=B')
  config.model.update(SMALL)
  config.repa.weight = 0.0
  return config


def measure_tokens(tokens: int) -> Point:
  """A step of one image of so many patches."""
  return time_step(PATCH * math.isqrt(tokens), 1, STEPS.get(tokens, 9))


def measure_batch(batch: int) -> Point:
  """A step of so many images of 256 patches."""
  return time_step(PATCH * 16, batch, 9 if batch < 64 else 3)


def time_step(side: int, batch: int, count: int) -> Point:
  """Seconds of `count` training steps, and operations of one."""
  from pixeldit_jax.benchmarks.step_time import time_calls, training_call

  config = small_network()
  config.data.update(resolution=side, batch_size=batch)
  marks: list[float] = []

  def mark():
    marks.append(time.process_time())

  with training_call(config) as call:
    seconds = time_calls(call, count, mark)
  mark()
  cpu = [end - start for start, end in zip(marks, marks[1:])]
  return dict(
    flops=batch * step_flops(side),
    seconds=statistics.median(seconds),
    seconds_min=min(seconds),
    cpu_seconds=statistics.median(cpu),
    cpu_seconds_min=min(cpu),
  )


def step_flops(side: int) -> float:
  """Operations of a training step of the small network on one image."""
  from pixeldit_jax.config import model_config
  from pixeldit_jax.model.cost import train_flops

  return train_flops(model_config(small_network()), side, side)


def crossing(config: Any) -> float:
  """Tokens from which the products of attention cost more than the rest.

  Operations are a + b L + c L^2 in the number L of patches; that is b / c.
  """
  from pixeldit_jax.config import model_config
  from pixeldit_jax.model.cost import forward_flops

  model = model_config(config)
  p = model.patch_size
  one, two, three = (forward_flops(model, p, n * p) for n in (1, 2, 3))
  square = (three - 2 * two + one) / 2
  return (two - one - 3 * square) / square


def measure_data(count: int) -> Point:
  """Opens a synthetic index of so many pictures and draws from it."""
  with tempfile.TemporaryDirectory() as folder:
    before, index = pathlib.Path(folder, 'small'), pathlib.Path(folder, 'index')
    write_index(before, ROWS_OF_FILE)
    open_and_draw(before)  # what any source takes
    write_index(index, count)
    own = own_memory()
    return open_and_draw(index) | dict(
      own_bytes=own_memory() - own,
      mapped_bytes=sum(
        file.stat().st_size for file in index.iterdir() if file.suffix == ''
      ),
    )


def write_index(folder: pathlib.Path, count: int) -> None:
  """An index as that of Parquet files, of one class and without names."""
  import numpy as np

  from pixeldit_jax.data.sources import byte_index

  folder.mkdir()
  data = folder / 'data.bin'
  data.write_bytes(bytes(ROWS_OF_FILE * PICTURE))
  links = [f'{k:05d}.parquet' for k in range(-(-count // ROWS_OF_FILE))]
  for name in links:
    os.link(data, folder / name)
  rows = min(count, ROWS_OF_FILE)
  columns = dict(
    storage=np.full(rows, byte_index.PLAIN),
    offset=np.arange(rows) * PICTURE,
    size=np.full(rows, PICTURE),
    label=np.zeros(rows),
  )
  for name, values in columns.items():
    block = values.astype(byte_index.DTYPES[name]).tobytes()
    with open(folder / name, 'wb') as file:
      for _ in links:
        file.write(block)
  meta = dict(
    rows=count,
    arrays=dict.fromkeys(columns, count),
    files=[str(folder / name) for name in links],
    titles=links,
    file_ends=[min(count, (k + 1) * ROWS_OF_FILE) for k in range(len(links))],
    class_names=['0'],
    captions=False,
    notes=[],
    settings={},
  )
  files.write_json(folder / byte_index.META, meta)


def open_and_draw(folder: pathlib.Path) -> Point:
  """Seconds to open an index, to draw from its order, and to read these."""
  from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
  from pixeldit_jax.data.pipeline.order import square_order
  from pixeldit_jax.data.sources.byte_index import ByteIndex
  from pixeldit_jax.data.sources.indexed import IndexedSource

  found: dict[str, list[float]] = {'open': [], 'draw': [], 'read': []}
  faults = []
  for seed in SEEDS:
    start = time.perf_counter()
    source = IndexedSource(ByteIndex(folder), str(folder))
    opened = time.perf_counter()
    options = LoaderOptions(resolution=8, batch_size=1, seed=seed)
    slot_at = square_order(source, options).slot_at
    drawn = [slot_at(position).example for position in range(DRAWN)]
    before, known = page_faults(), time.perf_counter()
    for example in drawn:
      source[example]
    marks = start, opened, known, time.perf_counter()
    faults.append(page_faults() - before)
    for name, begin, end in zip(found, marks, marks[1:]):
      found[name].append(end - begin)
  least = {f'{name}_seconds': min(times) for name, times in found.items()}
  return least | dict(read_faults=statistics.median(faults))


def page_faults() -> int:
  """How often this process met a page of memory that was not yet its own."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def own_memory() -> int:
  """Bytes of this process; mapped files do not count."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  (line,) = (line for line in lines if line.startswith('RssAnon'))
  return 1024 * int(line.split()[1])


def measure_devices(devices: int) -> Point:
  """The compiler's report of a B of two patch blocks, on chips of a v5e."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # no TPU is needed
  from pixeldit_jax.configs import imagenet256

  from pixeldit_jax.compile_report.report import compile_report

  config = imagenet256.get_config('size=B')
  config.repa.weight = 0.0
  config.model.update(patch_depth=2, pixel_depth=0, patch_remat='none')
  config.data.batch_size = CHIP_BATCH * devices
  config.mesh.data = max(1, devices // 16)
  side = math.isqrt(devices)
  report = compile_report(config, f'v5e:{side}x{side}', 'train')
  return dict(
    roofline=report['roofline'],
    links_bytes=sum(kind['bytes'] for kind in report['collectives'].values()),
    peak_bytes=report['memory']['peak'],
    parameters=report['parameters'],
    mfu=report['roofline_mfu'],
    cpu_to_compile=report['seconds']['compile_cpu'],
  )


def draw_tokens(axes: Any, points: list[Point]) -> None:
  works, first = PANELS['tokens'].works, points[0]
  flops = [step_flops(PATCH * math.isqrt(tokens)) for tokens in works]
  axes.plot(
    [p['work'] for p in points],
    [p['cpu_seconds_min'] / first['cpu_seconds_min'] for p in points],
    'o-',
    label='CPU time of a step, the least',
  )
  axes.plot(works, [f / flops[0] for f in flops], 's--', label='operations')
  axes.plot(works, [n / works[0] for n in works], ':', label='linear')
  axes.axvline(crossing(small_network()), color='grey', linewidth=0.8)
  axes.set(xlabel='patch tokens of an image', ylabel='times that of the first')


def draw_batch(axes: Any, points: list[Point]) -> None:
  axes.plot(
    [p['work'] for p in points],
    [1e3 * p['cpu_seconds_min'] / p['work'] for p in points],
    'o-',
    label='CPU time of an image, the least',
  )
  axes.set(xlabel='images of a step', ylabel='ms an image')
  _from_zero(axes)


def draw_data(axes: Any, points: list[Point]) -> None:
  counts = [p['work'] for p in points]
  for name, key in (
    ('open the index', 'open_seconds'),
    ('draw 1,000 indices', 'draw_seconds'),
    ('read these 1,000', 'read_seconds'),
  ):
    axes.plot(counts, [1e3 * p[key] for p in points], 'o-', label=name)
  axes.set(xlabel='pictures of the source', ylabel='ms')
  memory = axes.twinx()
  memory.set(yscale='log', ylabel='MB (dashed)')
  for name, key, colour in (
    ('mapped', 'mapped_bytes', 'grey'),
    ('its own', 'own_bytes', 'black'),
  ):
    values = [max(p[key], 1e4) / 1e6 for p in points]
    memory.plot(counts, values, '--', color=colour)
    memory.annotate(name, (counts[1], values[1]), va='top')


def draw_devices(axes: Any, points: list[Point]) -> None:
  for name in (*PARTS, 'seconds'):
    axes.plot(
      [p['work'] for p in points],
      [1e3 * p['roofline'][name] for p in points],
      'o--' if name in PARTS else 'k-',
      label=name if name in PARTS else 'at least',
    )
  axes.set(xlabel='chips, 16 images each', ylabel='ms of a step')
  _from_zero(axes)


def _from_zero(axes: Any) -> None:
  """A linear vertical axis, with room for the legend."""
  axes.set(yscale='linear')
  axes.margins(y=0.3)
  axes.set_ylim(bottom=0)


class Panel(NamedTuple):
  """One picture: its work, what measures a point, and what draws all."""

  works: list[int]
  measure: Callable[[int], Point]
  draw: Callable[[Any, list[Point]], None]


PANELS: dict[str, Panel] = {
  'tokens': Panel([256, 1024, 4096, 16384], measure_tokens, draw_tokens),
  'batch': Panel([2**k for k in range(7)], measure_batch, draw_batch),
  'data': Panel([10**k for k in range(4, 9)], measure_data, draw_data),
  'devices': Panel([1, 4, 16, 64, 256], measure_devices, draw_devices),
}


def update(folder: pathlib.Path, names: list[str]) -> None:
  """Measures what is named or not yet known, and draws all panels."""
  unknown = set(names) - set(PANELS)
  if unknown:
    sys.exit(f'scale.py: {sorted(unknown)}: there are {list(PANELS)}.')
  store = folder / STORE
  known = files.read_json(store) if store.is_file() else {}
  for name, panel in PANELS.items():
    if name in names or name not in known:
      known[name] = [_in_its_process(panel.measure, n) for n in panel.works]
      files.write_json(store, known, indent=1)
  for name, panel in PANELS.items():
    _draw(folder / f'scale_{name}.png', panel, known[name])


def _in_its_process(measure: Callable[[int], Point], work: int) -> Point:
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    point = dict(work=work) | pool.submit(measure, work).result()
  print(point, flush=True)
  return point


def _draw(path: pathlib.Path, panel: Panel, points: list[Point]) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.6, 3.5), dpi=100, layout='constrained')
  axes = figure.subplots()
  axes.set(xscale='log', yscale='log')
  panel.draw(axes, points)
  axes.set_xticks([], minor=True)
  if panel.works[-1] < 10**6:
    axes.set_xticks(panel.works, [f'{n:,}' for n in panel.works])
  axes.grid(alpha=0.3)
  axes.legend(fontsize='small')
  with files.replacing(path) as temporary:
    figure.savefig(temporary, format='png')


if __name__ == '__main__':
  update(pathlib.Path(sys.argv[1]), sys.argv[2:])
