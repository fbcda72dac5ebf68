"""Buffers of a compiled program in HBM, and the work of its instructions.

Only the results of instructions that are not fused are buffers. A layout with
a memory space, as 'S(1)' for the vector memory of a TPU, is that of a buffer on
the chip: it takes no HBM, and to read it moves no bytes here.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pixeldit_jax.compile_report.flops_and_collectives import (
  COLLECTIVES,
  flops_of,
)
from pixeldit_jax.compile_report.hlo_parser import (
  Buffer,
  Computation,
  Instruction,
  Program,
)

# These move nothing themselves.
FREE = frozenset(
  'parameter constant tuple get-tuple-element bitcast while conditional call '
  'after-all partition-id replica-id opt-barrier async-start async-update '
  'call-start add-dependency iota'.split()
)
FREE_TARGETS = 'AllocateBuffer', 'ConcatBitcast'  # of custom calls
_ALL = 2**62  # bytes: more than any buffer has
# Users that read no byte of an operand from HBM: it leaves a fusion unchanged,
# or it is part of a collective, whose traffic is the interconnect's.
_NO_READ = ('tuple', 'parameter', *COLLECTIVES)
_SLICES = ('dynamic-slice', 'slice', 'gather')
# Of a fusion that gives its only operand another tiled layout, moving nothing:
# a TPU7x program has one before each slice and each update of stacked layers.
_SAME_BYTES = 'output_to_operand_aliasing={{}: (0, {})}'


class Work(NamedTuple):
  """One instruction, with what is fused into it.

  Attributes:
    flops: of one run.
    bytes: that one run moves from and to HBM.
    is_async: other instructions run meanwhile.
    times: runs in one call of the program.
  """

  flops: int
  bytes: int
  is_async: bool
  times: int


def work_of(program: Program) -> Iterator[Work]:
  """The work of every instruction that runs on one device."""
  for visit in program.visits():
    if not visit.is_fused:
      instruction = visit.instruction, visit.computation, program
      yield Work(
        flops_of(*instruction),
        bytes_of(*instruction),
        visit.is_async,
        visit.times,
      )


def buffers(program: Program) -> dict[Buffer, str]:
  """The distinct buffers in HBM, each with an instruction that makes it."""
  found: dict[Buffer, str] = {}
  for visit in program.visits():
    if not visit.is_fused and visit.instruction.opcode not in (
      'tuple',
      'while',
    ):
      for buffer in visit.instruction.result:
        if in_hbm(buffer):
          found.setdefault(buffer, visit.instruction.name)
  return found


def in_hbm(buffer: Buffer) -> bool:
  """Whether the layout names no other memory space."""
  return 'S(' not in buffer.layout


def bytes_of(
  instruction: Instruction, computation: Computation, program: Program
) -> int:
  """Bytes that one run of an instruction moves from and to HBM.

  An estimate: an operand that a fusion only slices counts as the slices, and a
  result that it updates in place counts as the update.
  """
  if _is_free(instruction):
    return 0
  return sum(_moved(instruction, computation, program))


def _is_free(instruction: Instruction) -> bool:
  opcode, attributes = instruction.opcode, instruction.attributes
  if opcode == 'custom-call':
    return any(f'"{target}"' in attributes for target in FREE_TARGETS)
  return opcode in FREE or opcode.endswith('-done')


def _moved(
  instruction: Instruction, computation: Computation, program: Program
) -> Iterator[int]:
  """Bytes of each operand and result of one instruction."""
  if instruction.opcode.endswith('-start'):
    # A copy between HBM and the chip. Its result lists the source, the part
    # that is copied, and scalars; the smallest is the part.
    yield min((b.bytes for b in instruction.result if b.shape), default=0)
    return
  if instruction.opcode == 'fusion':
    called = program.called(instruction)
  else:
    called = _as_fusion(instruction, computation)
  users, parameters = _users(called), _parameters(called)
  for number, name in enumerate(instruction.operands):
    if number in parameters:  # an operand that is given twice is read once
      held = filter(in_hbm, computation.instructions[name].result)
      size = sum(b.bytes for b in held)
      yield min(size, _read(parameters[number], users, program))
  for buffer, written in zip(instruction.result, _written(called, program)):
    if in_hbm(buffer):
      yield min(buffer.bytes, written)


def _as_fusion(
  instruction: Instruction, computation: Computation
) -> Computation:
  """A computation of this instruction only, its operands as parameters."""
  found = {
    name: Instruction(
      name, 'parameter', computation.instructions[name].result, (str(n),), ''
    )
    for n, name in enumerate(instruction.operands)
    if name in computation.instructions
  }
  return Computation('', {**found, instruction.name: instruction})


def _users(computation: Computation) -> dict[str, list[Instruction]]:
  """The instructions that take each value as an operand."""
  users: dict[str, list[Instruction]] = {}
  for instruction in computation.instructions.values():
    for name in instruction.operands:
      users.setdefault(name, []).append(instruction)
  return users


def _parameters(computation: Computation) -> dict[int, str]:
  """The parameters' names by their number."""
  return {
    int(i.operands[0]): i.name
    for i in computation.instructions.values()
    if i.opcode == 'parameter'
  }


def _read(
  name: str, users: dict[str, list[Instruction]], program: Program
) -> int:
  """Bytes of a parameter that its users read, `_ALL` if one reads all."""
  total = 0
  for user in users.get(name, []):
    if user.opcode == 'bitcast' or _SAME_BYTES in user.attributes:
      total += _read(user.name, users, program)
    elif user.opcode == 'fusion':
      called = program.called(user)
      inner, parameters = _users(called), _parameters(called)
      for number, operand in enumerate(user.operands):
        if operand == name:
          total += _read(parameters[number], inner, program)
    elif user.opcode in _SLICES and user.operands[0] == name:
      total += user.result[0].bytes
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
      pass  # written in place, and not read
    elif user.opcode in _NO_READ:
      pass
    else:
      return _ALL
  return total


def _written(computation: Computation, program: Program) -> list[int]:
  """Bytes of each result that are written."""
  root = list(computation.instructions.values())[-1]
  parts = [root]
  if root.opcode == 'tuple':
    parts = [computation.instructions[name] for name in root.operands]
  sizes = []
  for part in parts:
    while (
      part.opcode == 'bitcast' and part.operands[0] in computation.instructions
    ):
      part = computation.instructions[part.operands[0]]
    if part.opcode == 'dynamic-update-slice':
      part = computation.instructions[part.operands[1]]
      sizes.append(sum(b.bytes for b in part.result))
    elif part.opcode == 'fusion':
      sizes.extend(_written(program.called(part), program))
    elif part.opcode in _NO_READ:
      sizes.append(0)
    else:
      sizes.append(sum(b.bytes for b in part.result))
  return sizes
