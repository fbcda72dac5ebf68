"""Reads the text of a compiled XLA program: instructions, loops, layouts.

The compiler's own cost analysis counts the body of a loop once. Here every
instruction comes with how often it runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from pixeldit_jax.errors import UserError

_BYTES = dict(pred=1, s4=0.5, u4=0.5)  # others tell their bits: bf16, s32, u8
_TYPE = re.compile(r'([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(
  r'(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)'
)


class Buffer(NamedTuple):
  """One array of a program, on one device.

  Attributes:
    dtype: as 'bf16'.
    shape: logical, without padding.
    layout: as '2,1,0:T(8,128)(2,1)': minor axis first, then the tiles.
  """

  dtype: str
  shape: tuple[int, ...]
  layout: str = ''

  @property
  def bytes(self) -> int:
    return math.ceil(math.prod(self.shape) * _item_bytes(self.dtype))

  @property
  def padded_bytes(self) -> int:
    """With the axes that are tiled rounded up to whole tiles."""
    order, _, tiles = self.layout.partition(':')
    tile = re.match(r'T\(([\d,]+)\)', tiles)
    if not tile or not order:
      return self.bytes
    physical = [self.shape[int(axis)] for axis in reversed(order.split(','))]
    sizes = [int(n) for n in tile[1].split(',')]
    for place, size in zip(range(-len(sizes), 0), sizes):
      if -place <= len(physical):
        physical[place] = -(-physical[place] // size) * size
    return math.ceil(math.prod(physical) * _item_bytes(self.dtype))

  def __str__(self):
    return f'{self.dtype}[{",".join(map(str, self.shape))}]'


class Instruction(NamedTuple):
  """One line of a program.

  Attributes:
    name: unique in its computation.
    opcode: as 'convolution'.
    result: one buffer, or those of a tuple.
    operands: names of instructions in the same computation.
    attributes: the rest of the line.
  """

  name: str
  opcode: str
  result: tuple[Buffer, ...]
  operands: tuple[str, ...]
  attributes: str


class Computation(NamedTuple):
  """Instructions by name, in their order."""

  name: str
  instructions: dict[str, Instruction]


class Visit(NamedTuple):
  """An instruction as it runs.

  Attributes:
    instruction: what runs.
    computation: the one it stands in.
    inside: name of the entry or loop body around it, through fusions.
    fused: its result stays within a fusion and is no buffer.
    beside: it is only started, or one that was; others run meanwhile.
    times: how often it runs.
  """

  instruction: Instruction
  computation: Computation
  inside: str
  fused: bool
  beside: bool
  times: int


def find(pattern: str | re.Pattern[str], text: str) -> re.Match[str]:
  """Searches for what the text of a program always has.

  Raises:
    ValueError: it has not; the compiler writes another text than it did.
  """
  match = re.search(pattern, text)
  if match is None:
    raise ValueError(f'no {pattern} in this part of a program: {text[:500]}')
  return match


class Program:
  """A compiled program, from its text (`compiled.as_text()`)."""

  def __init__(self, text: str):
    self.computations: dict[str, Computation] = {}
    self.entry = ''
    current = None
    for line in text.splitlines():
      if header := _HEADER.match(line):
        current = Computation(header[2], {})
        self.computations[current.name] = current
        if header[1]:
          self.entry = current.name
      elif current is not None and ' = ' in line:
        instruction = parse_instruction(line)
        current.instructions[instruction.name] = instruction

  def visits(self) -> Iterator[Visit]:
    """All instructions that run; of a condition, every branch once."""
    return self._visits(self.entry, self.entry, False, False, 1)

  def _visits(self, name, inside, fused, beside, times):
    computation = self.computations[name]
    for instruction in computation.instructions.values():
      started = beside or instruction.opcode.endswith('-start')
      yield Visit(instruction, computation, inside, fused, started, times)
      attributes = instruction.attributes
      if instruction.opcode == 'while':
        body = find(r'body=%?([\w.\-]+)', attributes)[1]
        trips = times * self.trip_count(instruction, computation)
        yield from self._visits(body, body, fused, started, trips)
      elif instruction.opcode == 'conditional':
        listed = re.search(r'branch_computations=\{([^}]*)\}', attributes)
        branches = (
          listed[1].split(',') if listed else _CALLED.findall(attributes)
        )
        for branch in branches:
          branch = branch.strip().lstrip('%')
          yield from self._visits(branch, branch, fused, started, times)
      elif instruction.opcode in ('fusion', 'call', 'async-start'):
        for called in _CALLED.findall(attributes):
          within = fused or instruction.opcode == 'fusion'
          yield from self._visits(called, inside, within, started, times)

  def called(self, instruction: Instruction) -> Computation:
    """What a fusion or call computes."""
    return self.computations[find(_CALLED, instruction.attributes)[1]]

  def trip_count(self, loop: Instruction, computation: Computation) -> int:
    """How often a loop of `computation` runs: (bound - start) / step.

    Raises:
      ValueError: it is not a loop that counts up to a constant.
    """
    condition, body = (
      self.computations[find(rf'{part}=%?([\w.\-]+)', loop.attributes)[1]]
      for part in ('condition', 'body')
    )
    bounds = [
      int(i.operands[0])
      for i in condition.instructions.values()
      if i.opcode == 'constant'
    ]
    counters = [
      int(find(r'index=(\d+)', i.attributes)[1])
      for i in condition.instructions.values()
      if i.opcode == 'get-tuple-element'
    ]
    if len(bounds) != 1 or len(counters) != 1:
      raise UserError(f'{loop.name}: how often it runs is not in the program.')
    start = _element(computation, loop.operands[0], counters[0])
    root = list(body.instructions)[-1]
    added = _element(body, root, counters[0])
    step = [
      int(body.instructions[name].operands[0])
      for name in added.operands
      if body.instructions[name].opcode == 'constant'
    ]
    first = int(start.operands[0]) if start.opcode == 'constant' else 0
    return -(-(bounds[0] - first) // (step[0] if step else 1))


def _element(computation: Computation, name: str, index: int) -> Instruction:
  """What makes an element of a tuple."""
  found = computation.instructions[name]
  if found.opcode == 'tuple':
    found = computation.instructions[found.operands[index]]
  while found.opcode in ('copy', 'bitcast'):
    found = computation.instructions[found.operands[0]]
  return found


def parse_instruction(line: str) -> Instruction:
  """Reads '[ROOT] %name = type opcode(operands), attributes'."""
  left, _, right = line.strip().partition(' = ')
  kind, rest = _split_type(right)
  opcode, _, rest = rest.partition('(')
  operands, attributes = _until_closed(rest)
  return Instruction(
    left.removeprefix('ROOT ').lstrip('%'),
    opcode,
    parse_buffers(kind),
    tuple(part.strip().split('%')[-1] for part in operands.split(', ')),
    attributes,
  )


def parse_buffers(text: str) -> tuple[Buffer, ...]:
  """The arrays of a type, in order."""
  return tuple(
    Buffer(dtype, tuple(map(int, filter(None, shape.split(',')))), layout)
    for dtype, shape, layout in _TYPE.findall(text)
  )


def _split_type(text: str) -> tuple[str, str]:
  """A type, which may be a tuple of types, and what follows."""
  if text.startswith('('):
    kind, rest = _until_closed(text[1:])
    return kind, rest.lstrip()
  kind, _, rest = text.partition(' ')
  return kind, rest


def _until_closed(text: str) -> tuple[str, str]:
  """The text up to the parenthesis that closes it, and what follows."""
  depth = 1
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return text[: match.start()], text[match.end() :]
  return text, ''


def _item_bytes(dtype: str) -> float:
  if dtype in _BYTES:
    return _BYTES[dtype]
  bits = re.search(r'\d+', dtype)
  return int(bits[0]) / 8 if bits else 0  # a token has none
