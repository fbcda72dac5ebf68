"""Operations and traffic of a compiled program, for one device.

Operations are 2 for a multiply-add of dots and convolutions (a TPU program has
dots as convolutions) and those that a kernel declares. Traffic is what one
device receives in each collective of a group of n:

| all-gather         | (n - 1) / n of the result         |
| reduce-scatter     | (n - 1) / n of the operand        |
| all-reduce         | both of these, of its array       |
| all-to-all         | (n - 1) / n of the result         |
| collective-permute | the result                        |
"""

import math
import re
from typing import NamedTuple

from pixeldit_jax.compile_report.hlo_parser import (
  Computation,
  Instruction,
  Program,
  Visit,
  find,
)

COLLECTIVES = (
  'all-gather',
  'reduce-scatter',
  'all-reduce',
  'all-to-all',
  'collective-permute',
)


class Collective(NamedTuple):
  """One collective, and how often it runs.

  Attributes:
    kind: one of `COLLECTIVES`.
    what: its arrays, as 'bf16[768,2,2048]'.
    group: devices that take part in it together.
    elements: of the whole arrays that it gathers or reduces.
    bytes: that one device receives each time.
    times: runs in one call of the program.
  """

  kind: str
  what: str
  group: int
  elements: int
  bytes: float
  times: int


def flops_of(
  instruction: Instruction, computation: Computation, program: Program
) -> int:
  """Operations of one run of an instruction, with what is fused into it."""
  if instruction.opcode == 'fusion':
    called = program.called(instruction)
    inner = called.instructions.values()
    return sum(flops_of(i, called, program) for i in inner)
  if instruction.opcode == 'convolution':
    return _convolution_flops(instruction, computation)
  if instruction.opcode == 'dot':
    left = computation.instructions[instruction.operands[0]].result[0].shape
    axes = find(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes)
    contracted = (left[int(a)] for a in axes[1].split(',') if a)
    return 2 * math.prod(instruction.result[0].shape) * math.prod(contracted)
  if instruction.opcode == 'custom-call':  # what a kernel declares
    told = re.search(
      r'"cost_estimate":\{"flops":"(\d+)"', instruction.attributes
    )
    return int(told[1]) if told else 0
  return 0


def _convolution_flops(instruction: Instruction, computation: Computation):
  """2 for each multiply-add that does not fall on padding."""
  attributes = instruction.attributes
  labels = find(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
  left, right = (
    computation.instructions[name].result[0].shape
    for name in instruction.operands
  )
  out = instruction.result[0].shape
  window = {
    key: [tuple(map(int, part.split('_'))) for part in value.split('x')]
    for key, value in re.findall(
      r'(\w+)=([\dx_]+)',
      (re.search(r'window=\{([^}]*)\}', attributes) or [''])[0],
    )
  }
  count = re.search(r'batch_group_count=(\d+)', attributes)
  total = 2 * left[labels[1].index('b')] // (int(count[1]) if count else 1)
  total *= right[labels[2].index('i')] * out[labels[3].index('f')]
  for axis, (size,) in enumerate(window.get('size', [])):
    stride, dilated, spread = (
      window[key][axis][0] if key in window else 1
      for key in ('stride', 'lhs_dilate', 'rhs_dilate')
    )
    low = window['pad'][axis][0] if 'pad' in window else 0
    length = left[labels[1].index(str(axis))]
    total *= sum(
      place % dilated == 0 and 0 <= place < length * dilated
      for o in range(out[labels[3].index(str(axis))])
      for place in range(
        o * stride - low, o * stride - low + size * spread, spread
      )
    )
  return total


def collectives(program: Program) -> list[Collective]:
  """Every collective once, however many parts it was cut into.

  A TPU program has reduce-scatters as fusions of an all-reduce with a slice,
  and overlaps gathers with products by fusing a part of them into several.
  """
  found: dict[str, Collective] = {}
  for visit in program.visits():
    kind = visit.instruction.opcode.removesuffix('-start')
    if kind in COLLECTIVES:
      channel = re.search(r'channel_id=(\d+)', visit.instruction.attributes)
      key = channel[1] if channel else visit.instruction.name
      before = found.get(key)
      # A part may be fused into an inner loop, which runs more often.
      if before is None or visit.times < before.times:
        found[key] = _collective(kind, visit)
  return list(found.values())


def _collective(kind: str, visit: Visit) -> Collective:
  instruction = visit.instruction
  buffers = instruction.result
  if instruction.opcode in ('all-gather-start', 'collective-permute-start'):
    buffers = buffers[1:2]  # the first is the operand
  group = group_size(instruction.attributes)
  if visit.computation.name.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'
  elements = sum(math.prod(b.shape) for b in buffers)
  size = sum(b.bytes for b in buffers)
  if instruction.opcode == 'reduce-scatter':
    elements, size = elements * group, size * group
  share = 1 if kind == 'collective-permute' else (group - 1) / group
  twice = 2 if kind == 'all-reduce' else 1
  what = ' '.join(sorted(map(str, buffers), key=len, reverse=True)[:3])
  return Collective(
    kind, what, group, elements, twice * share * size, visit.times
  )


def group_size(attributes: str) -> int:
  """Devices in one replica group, in any of the forms that XLA writes."""
  if named := re.search(
    r'replica_groups=\S*?\[([^\]]*)\][^{]* \{([^}]*)\}', attributes
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return math.prod(int(sizes[n]) for n in re.findall(r"'(\w+)'", named[2]))
  if tiled := re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes):
    return int(tiled[2])
  if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', attributes):
    return len(listed[1].split(','))
  return 1
