"""Operations and traffic of a compiled program, for one device.

Operations are 2 for a multiply-add of dots and convolutions (a TPU program has
dots as convolutions), those that a kernel declares, and those of JAX's splash
attention, which declares none. Traffic is what one device receives in each
collective of a group of n:

| all-gather         | (n - 1) / n of the result         |
| reduce-scatter     | (n - 1) / n of the operand        |
| all-reduce         | both of these, of its array       |
| all-to-all         | (n - 1) / n of the result         |
| collective-permute | the result                        |

What slices exchange goes through their hosts and the data center's network: the
compiler leaves the sums among them to its runtime, and a chip of each slice
sends and receives its share.
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
  """One collective.

  Attributes:
    kind: one of `COLLECTIVES`.
    arrays: as 'bf16[768,2,2048]', the three longest names.
    group: number of devices, or of slices, that exchange data.
    elements: of the arrays that it gathers or reduces, not of one share.
    bytes: that one device receives in one run.
    times: runs in one call of the program.
    overlaps: the compiler has placed other work meanwhile: it is started and
      awaited later, or fused in parts into products.
  """

  kind: str
  arrays: str
  group: int
  elements: int
  bytes: float
  times: int
  overlaps: bool


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
    declared = re.search(
      r'"cost_estimate":\{"flops":"(\d+)"', instruction.attributes
    )
    if declared:
      return int(declared[1])
    return _splash_flops(instruction, computation)
  return 0


def _splash_flops(instruction: Instruction, computation: Computation) -> int:
  """Operations of JAX's splash attention, known by the names of its kernels.

  Each product of queries [B, N, L, K] with keys [B, N, S, K], or of the scores
  with either, has B N L S K multiply-adds. Two make the output. The gradients
  take five in one kernel, where dq comes in parts and has one axis more, or
  four for keys and values and three for queries in two kernels.
  """
  phase = re.match(r'splash_m[hq]a_(fwd|dkv|dq)_', instruction.name)
  if phase is None:
    return 0
  operands = (
    computation.instructions[name].result[0]
    for name in instruction.operands
    if name in computation.instructions
  )
  # Before them are the indices of blocks. The axes of a pair may be swapped,
  # and that of the images is missing if there is one.
  q, k, *_ = (b.shape for b in operands if 'f' in b.dtype)
  shapes = [b.shape for b in instruction.result if len(b.shape) >= len(q)]
  is_fused = any(len(shape) > len(q) for shape in shapes)
  products = {'fwd': 2, 'dq': 3, 'dkv': 5 if is_fused else 4}[phase[1]]
  head_size = shapes[0][-1]
  tokens = math.prod(k[-2:]) // head_size
  return 2 * products * math.prod(q) * tokens


class _Window(NamedTuple):
  """One spatial axis of a convolution.

  Attributes:
    size: positions of the kernel.
    stride: between two outputs.
    low: padding before the first input; negative if inputs are cut off.
    input_dilation: distance of two inputs; what is between them is padding.
    kernel_dilation: distance of two positions of the kernel.
  """

  size: int
  stride: int
  low: int
  input_dilation: int
  kernel_dilation: int

  def products(self, inputs: int, outputs: int) -> int:
    """Pairs of an output and a kernel position that meet a true input."""
    return sum(
      self._is_input(output * self.stride - self.low + step, inputs)
      for output in range(outputs)
      for step in range(
        0, self.size * self.kernel_dilation, self.kernel_dilation
      )
    )

  def _is_input(self, position: int, inputs: int) -> bool:
    """Whether a position of the dilated axis has an input, not padding."""
    index, between = divmod(position, self.input_dilation)
    return between == 0 and 0 <= index < inputs


def _windows(attributes: str) -> list[_Window]:
  """The window of each spatial axis, from 'window={size=3x1 pad=2_2x0_0}'."""
  text = re.search(r'window=\{([^}]*)\}', attributes)
  fields = dict(re.findall(r'(\w+)=([\dx_\-]+)', text[1] if text else ''))
  if 'size' not in fields:
    return []
  axes = fields['size'].count('x') + 1

  def values(name: str, default: int) -> list[int]:
    if name not in fields:
      return [default] * axes
    # Of 'low_high' the first number.
    return [int(part.split('_')[0]) for part in fields[name].split('x')]

  return [
    _Window(*axis)
    for axis in zip(
      values('size', 1),
      values('stride', 1),
      values('pad', 0),
      values('lhs_dilate', 1),
      values('rhs_dilate', 1),
    )
  ]


def _convolution_flops(
  instruction: Instruction, computation: Computation
) -> int:
  """2 for each multiply-add, without those on padding.

  A TPU program writes batched products as convolutions whose batches are
  spatial axes, with a padding that makes each output meet one input only. So
  what meets padding must not count.
  """
  attributes = instruction.attributes
  labels = find(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
  inputs, kernel = (
    computation.instructions[name].result[0].shape
    for name in instruction.operands
  )
  outputs = instruction.result[0].shape
  groups = re.search(r'batch_group_count=(\d+)', attributes)
  total = 2 * inputs[labels[1].index('b')] // (int(groups[1]) if groups else 1)
  total *= kernel[labels[2].index('i')] * outputs[labels[3].index('f')]
  for axis, window in enumerate(_windows(attributes)):
    total *= window.products(
      inputs[labels[1].index(str(axis))], outputs[labels[3].index(str(axis))]
    )
  return total


def collectives(program: Program) -> list[Collective]:
  """Every collective once, in however many parts the compiler cut it.

  A TPU program writes a reduce-scatter as a fusion of an all-reduce with a
  slice. To overlap a gather with products it fuses parts of it into several of
  them; the parts share one channel.
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


def between_slices(program: Program) -> list[Collective]:
  """What a chip receives from the chips of other slices."""
  found = []
  for visit in program.visits():
    attributes = visit.instruction.attributes
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', attributes)
    if visit.instruction.opcode != 'recv' or not kind:
      continue
    slices = find(r'_xla_megascale_target="\{([\d,:]+)\}', attributes)
    data = visit.instruction.result[0]
    found.append(
      Collective(
        kind=kind[1].lower().replace('_', '-'),
        arrays=str(data),
        group=len(slices[1].split(',')),
        elements=math.prod(data.shape),
        bytes=data.bytes,
        times=visit.times,
        overlaps=True,
      )
    )
  return found


def _collective(kind: str, visit: Visit) -> Collective:
  instruction = visit.instruction
  buffers = instruction.result
  if instruction.opcode in ('all-gather-start', 'collective-permute-start'):
    buffers = buffers[1:2]  # the first is the operand
  group = group_size(instruction.attributes)
  is_scatter = visit.computation.name.startswith('all-reduce-scatter')
  if is_scatter:
    kind = 'reduce-scatter'
  elements = sum(math.prod(b.shape) for b in buffers)
  size = sum(b.bytes for b in buffers)
  if instruction.opcode == 'reduce-scatter':
    elements, size = elements * group, size * group
  share = 1 if kind == 'collective-permute' else (group - 1) / group
  twice = 2 if kind == 'all-reduce' else 1
  arrays = ' '.join(sorted(map(str, buffers), key=len, reverse=True)[:3])
  return Collective(
    kind,
    arrays,
    group,
    elements,
    bytes=twice * share * size,
    times=visit.times,
    overlaps=visit.is_async or visit.is_fused and not is_scatter,
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
