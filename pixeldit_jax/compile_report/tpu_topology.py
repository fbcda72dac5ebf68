"""TPU topologies without TPUs: their devices, and programs compiled for them.

libtpu has the whole compiler, and refuses what does not fit into HBM as a chip
would.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from pixeldit_jax import sharding
from pixeldit_jax.encoders.dinov3 import of_width
from pixeldit_jax.encoders.frozen import Frozen, abstract_frozen
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.conditions import abstract_conditions
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.inputs import abstract_batch
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import abstract_state, state_shardings
from pixeldit_jax.train.step import make_train_step
from pixeldit_jax.typing import PyTree


class OutOfMemory(Exception):
  """A program needs more HBM than a chip has.

  Attributes:
    lines: the memory needed and available, then the largest allocations.
  """

  def __init__(self, lines: list[str]):
    super().__init__('\n'.join(lines))
    self.lines = lines


class Lowered(NamedTuple):
  """A program to compile, and its abstract arguments.

  Attributes:
    lowered: for `compile_for_tpu`.
    weights: abstract, with the shapes and shardings that the program takes.
    arguments: of the program, abstract, the weights among them.
  """

  lowered: jax.stages.Lowered
  weights: PyTree
  arguments: PyTree


class Compiled(NamedTuple):
  """A compiled program.

  Attributes:
    program: with its text and the sizes of its arguments.
    hbm_bytes: HBM that its buffers take on one chip. The peak memory of JAX's
      `memory_analysis` also counts buffers in the vector memory of the chip.
  """

  program: jax.stages.Compiled
  hbm_bytes: int


# The slices of Cloud TPU by the names of their types; in v4 and v5p names the
# number is of cores, two to a chip. cloud.google.com/tpu/docs
_FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8'}
_FLAT |= {128: '8x16', 256: '16x16'}
_CUBES = {8: '2x2x1', 16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4'}
_CUBES |= {256: '4x4x8', 512: '4x8x8', 1024: '8x8x8', 2048: '8x8x16'}
_TYPES = {
  'v5litepod': ('v5e', _FLAT),
  'v5e': ('v5e', _FLAT),
  'v6e': ('v6e', _FLAT),
  'v5p': ('v5p', _CUBES),
  'v4': ('v4', _CUBES),
}


def topology_of(name: str) -> str:
  """'v5litepod-16', as slices are asked for, to 'v5e:4x4'.

  Raises:
    UserError: a type without a slice of that size.
  """
  kind, dash, count = name.partition('-')
  if not dash or kind not in _TYPES or ':' in name:
    return name
  chip, shapes = _TYPES[kind]
  if not count.isdigit() or int(count) not in shapes:
    known = ', '.join(f'{kind}-{n}' for n in shapes)
    raise UserError(f'topology {name!r}: slices are {known}.')
  return f'{chip}:{shapes[int(count)]}'


def make_topology(name: str, slices: int = 1) -> list[jax.Device]:
  """The devices of a topology such as 'v5e:4x4', for a number of slices.

  The names that slices are asked for by, as v5litepod-16, are taken as well.

  Raises:
    UserError: a name that libtpu does not know.
    ModuleNotFoundError: libtpu is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise MissingPackageError(
      'the TPU compiler is in libtpu, which is not installed: '
      "pip install 'pixeldit_jax[tpu]' (Linux on x86-64)."
    )
  name = topology_of(name)
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # there is no TPU host
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  more: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if name.startswith('v4:'):  # whose devices would be the two cores of a chip
    more['chip_config_name'] = 'megacore'
  if re.fullmatch(r'\w+:1(x1)+', name):  # a host is taken to have four chips
    more['chips_per_host_bounds'] = (1, 1, 1)
  try:
    return topologies.get_topology_desc(
      name, platform='tpu', wrap=_wrapped_axes(name), **more
    ).devices
  except Exception as error:
    raise UserError(
      f'topology {name!r}: {str(error).splitlines()[0]} Write one as v5e:4x4, '
      'v5p:4x4x4 or v6e:16x16.'
    ) from error


def _wrapped_axes(name: str) -> tuple[bool, ...]:
  """For each axis of a slice, whether its links close to a ring.

  A slice with three axes (v4, v5p) is a torus from 4x4x4 on; one with two (v5e,
  v6e) is a ring along an axis of 16, the side of the pod. Where no ring is
  declared, the compiler gathers by sums over all chips.
  """
  sizes = [int(n) for n in re.findall(r'\d+', name.partition(':')[2])]
  if len(sizes) == 3:
    return (all(n % 4 == 0 for n in sizes),) * 3
  return (*(n == 16 for n in sizes), False)


def lower_training(context: RunContext) -> Lowered:
  """One training step of a configuration, donated as in training."""
  config, model = context.config, context.model
  mesh, rules = context.mesh, context.rules
  tx = make_optimizer(context)
  target = teacher = width = None
  if config.repa.weight:
    target = VisionConfig(dtype=model.dtype, scan=model.scan)  # a ViT-B/14
    width = target.width
    split_by = rules if config.repa.sharded else None
    teacher = abstract_frozen(target, mesh, split_by)
  encoder, encoder_weights = _encoder(context) or (None, None)
  shardings = state_shardings(model, tx, mesh, rules, width)
  state = abstract_state(model, tx, shardings, width)
  batch = _with_batch_sharding(abstract_batch(config), context)
  step = jax.jit(
    make_train_step(context, tx, target, encoder),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  with context.use():
    arguments = state, batch, teacher, encoder_weights
    lowered = step.lower(*arguments)
  return Lowered(lowered, state.weights, arguments)


def _encoder(context: RunContext) -> Frozen | None:
  """The DINOv3 that grounds, shapes in place of weights; None without one."""
  model = context.model
  if not model.grounding_width:
    return None
  found = of_width(model.grounding_width, dtype=model.dtype, scan=model.scan)
  rules = context.rules if context.config.grounding.sharded else None
  return found, abstract_frozen(found, context.mesh, rules)


def lower_sampling(context: RunContext) -> Lowered:
  """The complete sampling loop of a configuration; latents stay latents."""
  context = context.without_autoencoder()
  config, model = context.config, context.model
  tx = make_optimizer(context)
  shardings = state_shardings(model, tx, context.mesh, context.rules)
  weights = abstract_state(model, tx, shardings).weights
  batch = _with_batch_sharding(abstract_conditions(config), context)
  encoder = _encoder(context)
  sampler = Sampler(context, encoder=encoder)
  arguments = weights, *batch, sampler.numbers(encoder=encoder and encoder[1])
  with context.use():
    lowered = sampler.jitted.lower(*arguments)
  return Lowered(lowered, weights, arguments)


def _with_batch_sharding(arrays: PyTree, context: RunContext) -> PyTree:
  """Abstract arrays whose rows are split over the mesh."""
  split = jax.tree.map(lambda _: context.batch_sharding, arrays)
  return sharding.with_shardings(arrays, split)


def compile_for_tpu(lowered: jax.stages.Lowered) -> Compiled:
  """Runs the TPU compiler.

  Raises:
    OutOfMemory: the program needs more HBM than a chip has.
  """
  with tempfile.TemporaryDirectory() as folder, _without_cache():
    # Neither the error nor the compiled program says what is in HBM; a report
    # that the compiler dumps does.
    try:
      program = lowered.compile(compiler_options={'xla_dump_to': folder})
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      report = _memory_report(folder)
      raise OutOfMemory(summarize_exhausted(str(error), report)) from None
    return Compiled(program, hbm_bytes(_memory_report(folder)))


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  """Compiles anew: a program for absent chips cannot be read from the cache."""
  options: Any = jax.config  # its annotations lack this one
  enabled = options.jax_enable_compilation_cache
  try:
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # it remembers whether it is used
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', enabled)
    compilation_cache.reset_cache()


def _memory_report(folder: str) -> str:
  """The compiler's table of allocations, empty if it wrote none."""
  found = sorted(pathlib.Path(folder).glob('*memory-usage-report.txt'))
  return found[-1].read_text() if found else ''


def hbm_bytes(report: str) -> int:
  """Bytes of all allocations in HBM, the compiler's default memory space.

  Args:
    report: the compiler's table of allocations, a section a memory space.

  Raises:
    ValueError: the section is missing, because the format has changed.
  """
  total = re.search(
    r'Memory Space: default.*\nTotal bytes: (\d+)', report.replace(',', '')
  )
  if total is None:
    raise ValueError(f'no default memory space in: {report[:500]}')
  return int(total[1])


def summarize_exhausted(
  error: str, report: str, count: int = 5, shapes: int = 3
) -> list[str]:
  """The memory needed and available, then the largest allocations.

  Args:
    error: the compiler's message.
    report: its table of allocations, the largest first; one allocation serves
      several arrays where those are not needed at the same time.
    count: allocations to list.
    shapes: arrays to list of each.
  """
  sizes = re.search(r'\((\S+)\) exceeds available HBM \((\S+)\)', error)
  lines = [
    f'needs {sizes[1]} of {sizes[2]} HBM' if sizes else error.splitlines()[0]
  ]
  for size, arrays in re.findall(r'%\);\s*(\S+);.*; (.+)', report)[:count]:
    arrays = re.findall(r'\w+\[[\d,]*\]', arrays)
    more = f' and {len(arrays) - shapes} more' * (len(arrays) > shapes)
    lines.append(f'{size} {" ".join(arrays[:shapes])}{more}')
  return lines
