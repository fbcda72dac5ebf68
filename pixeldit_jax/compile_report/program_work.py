"""What each instruction of a compiled program computes and moves."""

from collections.abc import Iterator
from typing import NamedTuple

from pixeldit_jax.compile_report.flops_and_collectives import flops_of
from pixeldit_jax.compile_report.hlo_parser import Program
from pixeldit_jax.compile_report.memory_traffic import bytes_of


class Work(NamedTuple):
  """One instruction, with what is fused into it.

  Attributes:
    flops: of one run.
    bytes: that one run moves from and to HBM.
    beside: it is only started, and others run meanwhile.
    times: runs in one call of the program.
  """

  flops: int
  bytes: int
  beside: bool
  times: int


def work_of(program: Program) -> Iterator[Work]:
  """All instructions that run on one device."""
  for visit in program.visits():
    if not visit.fused:
      what = visit.instruction, visit.computation, program
      yield Work(flops_of(*what), bytes_of(*what), visit.beside, visit.times)
