"""Memory, traffic and operations of a configuration, from the TPU compiler.

Nothing runs: every figure is read from the compiled program. The time is a
lower bound, from the chip's published rates (`roofline`).
"""

import math
import time

import jax
from ml_collections import ConfigDict

from pixeldit_jax.compile_report import memory_traffic
from pixeldit_jax.compile_report.flops_and_collectives import (
  COLLECTIVES,
  Collective,
  between_slices,
  collectives,
)
from pixeldit_jax.compile_report.hlo_parser import Program
from pixeldit_jax.compile_report.memory_traffic import work_of
from pixeldit_jax.compile_report.roofline import roofline
from pixeldit_jax.compile_report.tpu_topology import (
  Compiled,
  Lowered,
  compile_for_tpu,
  lower_sampling,
  lower_training,
  make_topology,
)
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.hardware import chip_of
from pixeldit_jax.model.cost import forward_flops, train_flops
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import sampling_flops
from pixeldit_jax.typing import PyTree

LARGE = 2**20  # bytes of the smallest replicated or padded array to report
PADDED = 1.5  # the least ratio of padded to true bytes to report


def compile_report(config: ConfigDict, topology: str, what: str) -> dict:
  """Compiles the training step or sampling loop of a configuration.

  Args:
    config: its mesh has to fit the topology.
    topology: as 'v5e:4x4'.
    what: 'train' or 'sample'.

  Returns:
    A dict that JSON can hold; memory and traffic in bytes of one chip.

  Raises:
    UserError: an impossible configuration or topology.
    OutOfMemory: the program needs more HBM than a chip has.
    ModuleNotFoundError: no TPU compiler.
  """
  validate(config)  # before the compiler is loaded
  devices = make_topology(topology, config.mesh.slices)
  context = RunContext.build(config, devices)
  mesh = context.mesh
  lower = lower_training if what == 'train' else lower_sampling
  program = lower(context)
  started, cpu_started = time.perf_counter(), time.process_time()
  compiled = compile_for_tpu(program.lowered)
  seconds = dict(
    compile=time.perf_counter() - started,
    compile_cpu=time.process_time() - cpu_started,  # of all cores together
  )
  return dict(
    what=what,
    topology=topology,
    slices=config.mesh.slices,
    mesh={axis: n for axis, n in mesh.shape.items() if n > 1},
    seconds=seconds,
    **_settings(config, what),
    **read_program(config, program, compiled, mesh.devices.flat[0], what),
  )


def _settings(config: ConfigDict, what: str) -> dict:
  """Settings of the configuration that decide the figures."""
  model, side = config.model, config.data.resolution
  batch = config.data if what == 'train' else config.sampler
  return dict(
    batch_size=batch.batch_size,
    resolution=side,
    remat=dict(patch=model.patch_remat, pixel=model.pixel_remat),
    gflops_per_image=forward_flops(model_config(config), side, side) / 1e9,
  )


def read_program(
  config: ConfigDict,
  program: Lowered,
  compiled: Compiled,
  device: jax.Device,
  what: str,
) -> dict:
  """The figures of one compiled program."""
  text = compiled.program.as_text()
  assert text is not None  # TPUs and CPUs give it
  hlo = Program(text)
  leaves = jax.tree.leaves(program.weights)
  parameters = sum(math.prod(a.shape) for a in leaves)
  traffic = _traffic(hlo, parameters)
  devices = len(leaves[0].sharding.device_set)
  work = list(work_of(hlo))
  flops = sum(w.times * w.flops for w in work)
  model_flops = _model_flops(config, what)
  received = sum(kind['bytes'] for kind in traffic.values())
  from_slices = _kind(between_slices(hlo), parameters)
  times = roofline(device, work, received, from_slices['bytes'])
  chip = chip_of(device)
  return dict(
    parameters=parameters,
    memory=_memory(compiled, device),
    collectives=traffic,
    between_slices=from_slices,
    extra_flops=flops * devices / model_flops - 1,
    roofline=times,
    roofline_mfu=model_flops / (times['seconds'] * devices * chip.flops),
    chip=dict(kind=device.device_kind, **chip._asdict()),
    replicated=replicated(program.arguments) + _gathered(hlo, program.weights),
    padded=padded(hlo),
  )


def _model_flops(config: ConfigDict, what: str) -> int:
  """Operations of the network for one batch, without recomputation."""
  model, side = model_config(config), config.data.resolution
  if what == 'train':
    flops = train_flops(model, side, side, config.flow.stages)
    return config.data.batch_size * flops
  return config.sampler.batch_size * sampling_flops(config, model)


def _memory(compiled: Compiled, device: jax.Device) -> dict:
  """Bytes of one chip; the peak is that of all buffers in HBM together."""
  stats = compiled.program.memory_analysis()
  assert stats is not None  # TPUs give it
  return dict(
    peak=compiled.hbm_bytes,
    hbm=chip_of(device).hbm,
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    aliased=stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


def _traffic(hlo: Program, parameters: int) -> dict[str, dict]:
  """Collectives by kind.

  'per_parameter' is the elements of gathered or reduced arrays over the
  parameters of the network, at any precision: FSDP gathers every weight twice
  and scatters its gradient once, which makes 3.
  """
  found = collectives(hlo)
  return {
    kind: _kind([c for c in found if c.kind == kind], parameters)
    for kind in COLLECTIVES
  }


def _kind(found: list[Collective], parameters: int) -> dict:
  """Sums over collectives of one kind, and the largest of them."""
  largest = sorted(found, key=lambda c: -c.bytes * c.times)[:5]
  return dict(
    runs=sum(c.times for c in found),
    bytes=sum(c.bytes * c.times for c in found),
    overlapped=sum(c.bytes * c.times for c in found if c.overlaps),
    per_parameter=sum(c.elements * c.times for c in found) / parameters,
    largest=[f'{c.times} x {c.arrays} of {c.group}' for c in largest],
  )


def replicated(arguments: PyTree) -> list[str]:
  """Large arguments of which every device holds a complete copy."""
  return [
    f'{jax.tree_util.keystr(path, simple=True, separator="/")} {a.shape}'
    for path, a in jax.tree_util.tree_leaves_with_path(arguments)
    if math.prod(a.shape) * a.dtype.itemsize >= LARGE
    and len(a.sharding.device_set) > 1
    and a.sharding.is_fully_replicated
  ]


def _gathered(hlo: Program, weights: PyTree) -> list[str]:
  """Large buffers with the complete value of a sharded weight of all layers."""
  blocks = {k: w for k, w in weights.items() if k.endswith('_blocks')}
  split = {
    a.shape
    for a in jax.tree.leaves(blocks)
    if not a.sharding.is_fully_replicated and len(a.shape) > 2
  }
  return [
    f'{buffer} by {name}'
    for buffer, name in memory_traffic.buffers(hlo).items()
    if buffer.bytes >= LARGE and buffer.shape in split
  ]


def padded(hlo: Program) -> list[str]:
  """Large buffers in HBM whose padding exceeds `PADDED`, with their ratio."""
  return [
    f'{buffer} x {buffer.padded_bytes / buffer.bytes:.2f} by {name}'
    for buffer, name in memory_traffic.buffers(hlo).items()
    if buffer.bytes >= LARGE and buffer.padded_bytes > PADDED * buffer.bytes
  ]


def describe(report: dict) -> list[str]:
  """The report as text, a line for each figure."""
  if 'out_of_memory' in report:
    return ['out of memory:', *report['out_of_memory']]
  r, memory, times = report, report['memory'], report['roofline']
  lines = [
    f'{r["what"]} on {r["slices"]} x {r["topology"]}, mesh {r["mesh"]}, '
    f'batch {r["batch_size"]} at {r["resolution"]}',
    f'compiled in        {r["seconds"]["compile"]:.0f} s, of '
    f'{r["seconds"]["compile_cpu"]:.0f} s of CPU',
    f'parameters         {r["parameters"] / 1e6:.1f} M',
    f'model              {r["gflops_per_image"]:.2f} GFLOP forward an image',
    f'peak memory        {memory["peak"] / 1e9:.2f} GB a chip of '
    f'{memory["hbm"] / 1e9:.1f} GB',
  ]
  for name in ('arguments', 'outputs', 'aliased', 'temporaries', 'code'):
    lines.append(f'  {name:16} {memory[name] / 1e9:.3f} GB')
  all_moved = r['collectives'] | {'between slices': r['between_slices']}
  for kind, moved in all_moved.items():
    lines.append(
      f'{kind:18} {moved["bytes"] / 1e9:.3f} GB a chip in {moved["runs"]}, '
      f'{moved["per_parameter"]:.2f} times the parameters, '
      f'{moved["overlapped"] / 1e9:.3f} GB of it overlapped'
    )
    lines += [f'  {what}' for what in moved['largest']]
  lines += [
    f'extra operations   {r["extra_flops"]:.1%} of the model: recomputed, '
    'padded, or of a teacher',
    f'at least           {times["seconds"] * 1e3:.1f} ms: compute '
    f'{times["compute"] * 1e3:.1f}, HBM {times["hbm"] * 1e3:.1f}, '
    f'interconnect {times["interconnect"] * 1e3:.1f}, network between slices '
    f'{times["network"] * 1e3:.1f}',
    f'that is an MFU of  {r["roofline_mfu"]:.1%} at most',
    f'chip               {r["chip"]}',
  ]
  for name in ('replicated', 'padded'):
    lines.append(f'{name:18} {len(r[name]) or "nothing large"}')
    lines += [f'  {what}' for what in r[name]]
  return lines
