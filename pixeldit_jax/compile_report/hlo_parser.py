"""Reads the text of a compiled XLA program: instructions, loops, layouts.

The cost analysis of XLA counts the body of a loop once. Here every instruction
comes with the number of times that it runs, `Visit.times`. A TPU program does
not state the trip counts of its loops (the text of CPU and GPU programs has
`known_trip_count`), so they are computed from the loop's condition and body:
see `Program.trip_count`. Loops inside loops multiply.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from pixeldit_jax.errors import UserError

_BYTES = dict(pred=1, s4=0.5, u4=0.5)  # others name their bits: bf16, u8
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
    physical = [self.shape[int(a)] for a in reversed(order.split(','))]
    sizes = [int(n) for n in tile[1].split(',')]
    for axis, size in zip(range(-len(sizes), 0), sizes):
      if -axis <= len(physical):
        physical[axis] = -(-physical[axis] // size) * size
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
    computation: contains the instruction.
    is_fused: it is part of a fusion, so its result is no buffer.
    is_async: it starts an asynchronous operation or is part of one, so other
      instructions run meanwhile.
    times: runs in one call of the program.
  """

  instruction: Instruction
  computation: Computation
  is_fused: bool
  is_async: bool
  times: int


def find(pattern: str | re.Pattern[str], text: str) -> re.Match[str]:
  """Searches for a part that the text of every program has.

  Raises:
    ValueError: the text lacks it, because the compiler's format has changed.
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
    return self._visits(self.entry, is_fused=False, is_async=False, times=1)

  def _visits(
    self, name: str, is_fused: bool, is_async: bool, times: int
  ) -> Iterator[Visit]:
    """The instructions of a computation and of all that it calls."""
    computation = self.computations[name]
    for instruction in computation.instructions.values():
      opcode, attributes = instruction.opcode, instruction.attributes
      started = is_async or opcode.endswith('-start')
      yield Visit(instruction, computation, is_fused, started, times)
      called, fused, runs = [], is_fused, times
      if opcode == 'while':
        called = [find(r'body=%?([\w.\-]+)', attributes)[1]]
        runs *= self.trip_count(instruction, computation)
      elif opcode == 'conditional':
        listed = re.search(r'branch_computations=\{([^}]*)\}', attributes)
        called = (
          re.findall(r'[\w.\-]+', listed[1])
          if listed
          else _CALLED.findall(attributes)
        )
      elif opcode in ('fusion', 'call', 'call-start', 'async-start'):
        called = _CALLED.findall(attributes)
        fused = fused or opcode == 'fusion'
      for inner in called:
        yield from self._visits(inner, fused, started, runs)

  def called(self, instruction: Instruction) -> Computation:
    """The computation of a fusion or call."""
    return self.computations[find(_CALLED, instruction.attributes)[1]]

  def trip_count(self, loop: Instruction, computation: Computation) -> int:
    """Runs of a loop's body, for loops that count up to a constant.

    The state of a loop is a tuple. The condition compares one of its elements,
    the counter, with the only constant of the condition, the bound. The tuple
    that enters the loop has the start (0 where it is not a constant, as
    `lax.scan` starts at 0), and the last instruction of the body adds the step.
    The count is (bound - start) / step, rounded up.

    Args:
      loop: a 'while' instruction.
      computation: contains the loop.

    Raises:
      UserError: the condition has another form, as that of `while_loop`.
    """
    condition, body = (
      self.computations[find(rf'{part}=%?([\w.\-]+)', loop.attributes)[1]]
      for part in ('condition', 'body')
    )
    compared = condition.instructions.values()
    bounds = [int(i.operands[0]) for i in compared if i.opcode == 'constant']
    counters = [
      int(find(r'index=(\d+)', i.attributes)[1])
      for i in compared
      if i.opcode == 'get-tuple-element'
    ]
    if len(bounds) != 1 or len(counters) != 1:
      raise UserError(f'{loop.name}: how often it runs is not in the program.')
    start = _element(computation, loop.operands[0], counters[0])
    last = list(body.instructions)[-1]
    added = _element(body, last, counters[0])
    steps = [
      int(body.instructions[name].operands[0])
      for name in added.operands
      if body.instructions[name].opcode == 'constant'
    ]
    first = int(start.operands[0]) if start.opcode == 'constant' else 0
    return -(-(bounds[0] - first) // (steps[0] if steps else 1))


def _element(computation: Computation, name: str, index: int) -> Instruction:
  """The instruction that makes an element of a tuple."""
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
