"""What a compiled program keeps in HBM, and what it moves to and from it.

Only the results of instructions that are not fused are buffers. On a TPU those
whose layout names another memory, as 'S(1)' for the vector memory, are on the
chip and cost nothing here.
"""

from collections.abc import Iterator

from pixeldit_jax.compile_report.flops_and_collectives import COLLECTIVES
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
  'add-dependency iota'.split()
)
FREE_TARGETS = 'AllocateBuffer', 'ConcatBitcast'  # of custom calls
_ALL = 2**62
# Operands that leave a fusion as they came, and the parts of a collective that
# products are overlapped with: its traffic is the interconnect's.
_PASSING = ('tuple', 'parameter', *COLLECTIVES)
_SLICES = ('dynamic-slice', 'slice', 'gather')


def buffers(program: Program) -> dict[Buffer, str]:
  """The different arrays that the program makes in HBM, and who makes one."""
  found: dict[Buffer, str] = {}
  for visit in program.visits():
    if not visit.fused and visit.instruction.opcode not in ('tuple', 'while'):
      for buffer in visit.instruction.result:
        if in_hbm(buffer):
          found.setdefault(buffer, visit.instruction.name)
  return found


def in_hbm(buffer: Buffer) -> bool:
  return 'S(' not in buffer.layout


def bytes_of(
  instruction: Instruction, computation: Computation, program: Program
) -> int:
  """Bytes that one run of an instruction moves from and to HBM.

  An estimate: what a fusion only slices counts as the slice, and what it
  updates in place as the update.
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
    # Between HBM and the memory on the chip: the whole, the part, and scalars.
    yield min((b.bytes for b in instruction.result if b.shape), default=0)
    return
  if instruction.opcode == 'fusion':
    called = program.called(instruction)
  else:
    called = _alone(instruction, computation)
  users, parameters = _users(called), _parameters(called)
  for place, name in enumerate(instruction.operands):
    if place in parameters:  # an operand that is given twice is read once
      held = filter(in_hbm, computation.instructions[name].result)
      whole = sum(b.bytes for b in held)
      yield min(whole, _read(parameters[place], users, program))
  for buffer, written in zip(instruction.result, _written(called, program)):
    if in_hbm(buffer):
      yield min(buffer.bytes, written)


def _alone(instruction: Instruction, computation: Computation) -> Computation:
  """An instruction as if it were the whole of a fusion."""
  found = {
    name: Instruction(
      name, 'parameter', computation.instructions[name].result, (str(n),), ''
    )
    for n, name in enumerate(instruction.operands)
    if name in computation.instructions
  }
  return Computation('', {**found, instruction.name: instruction})


def _users(computation: Computation) -> dict[str, list[Instruction]]:
  users: dict[str, list[Instruction]] = {}
  for instruction in computation.instructions.values():
    for name in instruction.operands:
      users.setdefault(name, []).append(instruction)
  return users


def _parameters(computation: Computation) -> dict[int, str]:
  return {
    int(i.operands[0]): i.name
    for i in computation.instructions.values()
    if i.opcode == 'parameter'
  }


def _read(name: str, users, program: Program) -> int:
  """Bytes of an operand that are read."""
  total = 0
  for user in users.get(name, []):
    if user.opcode == 'bitcast':
      total += _read(user.name, users, program)
    elif user.opcode == 'fusion':
      called = program.called(user)
      inner, parameters = _users(called), _parameters(called)
      for place, operand in enumerate(user.operands):
        if operand == name:
          total += _read(parameters[place], inner, program)
    elif user.opcode in _SLICES and user.operands[0] == name:
      total += user.result[0].bytes
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
      pass  # in place
    elif user.opcode in _PASSING:
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
    elif part.opcode in _PASSING:
      sizes.append(0)
    else:
      sizes.append(sum(b.bytes for b in part.result))
  return sizes
