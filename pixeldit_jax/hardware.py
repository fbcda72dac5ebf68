"""Peak rates of the chips that programs run on, as published.

TPUs: cloud.google.com/tpu/docs. GPUs: NVIDIA's data sheets of the SXM modules,
of the A100 that with 80 GB.
"""

import contextlib
import os
import pathlib
from typing import NamedTuple

import jax

from pixeldit_jax.errors import UserError


class Chip(NamedTuple):
  """Peak rates and memory of one device.

  Attributes:
    flops: dense bf16 operations a second.
    hbm: bytes of memory.
    hbm_rate: bytes a second from and to memory.
    interconnect_rate: bytes a second that all links receive together, half of
      the bidirectional figure.
    network_rate: bytes a second over the network that joins slices; 0 where
      it is not published.
  """

  flops: float
  hbm: float
  hbm_rate: float
  interconnect_rate: float
  network_rate: float = 0.0


# By the start of the device's kind, the longer names first. A device is a chip,
# except for TPU7x (Ironwood), where JAX has two devices for a chip with 2,307
# TFLOP/s, 192 GiB, 7,380 GB/s, and 600 GB/s of links in one direction. What is
# published of the network between slices is in bits.
CHIPS = {
  'TPU v4': Chip(275e12, 32 * 2**30, 1228e9, 300e9),
  'TPU v5 lite': Chip(197e12, 16 * 2**30, 819e9, 200e9, 25e9 / 8),
  'TPU v5e': Chip(197e12, 16 * 2**30, 819e9, 200e9, 25e9 / 8),
  'TPU v5': Chip(459e12, 95 * 2**30, 2765e9, 600e9, 50e9 / 8),  # v5p
  'TPU v6 lite': Chip(918e12, 32 * 2**30, 1600e9, 400e9, 100e9 / 8),
  'TPU v6e': Chip(918e12, 32 * 2**30, 1600e9, 400e9, 100e9 / 8),
  'TPU7x': Chip(2307e12 / 2, 96 * 2**30, 7380e9 / 2, 600e9 / 2, 100e9 / 16),
  'NVIDIA A100': Chip(312e12, 80e9, 2039e9, 300e9),
  'NVIDIA H100': Chip(989e12, 80e9, 3350e9, 450e9),
  'NVIDIA H200': Chip(989e12, 141e9, 4800e9, 450e9),
  'NVIDIA B200': Chip(2250e12, 180e9, 8000e9, 900e9),
}


def chip_of(device: jax.Device) -> Chip:
  """The figures of a device.

  Raises:
    UserError: a kind that is not in the table.
  """
  for kind, chip in CHIPS.items():
    if device.device_kind.startswith(kind):
      return chip
  raise UserError(
    f'no figures for {device.device_kind!r}: add it to CHIPS in '
    'pixeldit_jax/hardware.py.'
  )


def peak_flops(device: jax.Device) -> float | None:
  """Peak bf16 operations a second, None for a device not in the table."""
  try:
    return chip_of(device).flops
  except UserError:
    return None


def host_memory() -> float:
  """Bytes of memory of this machine, or of the container if that has less."""
  total = float(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
  for path in (
    '/sys/fs/cgroup/memory.max',
    '/sys/fs/cgroup/memory/memory.limit_in_bytes',
  ):
    with contextlib.suppress(OSError, ValueError):  # 'max', or no such file
      total = min(total, float(pathlib.Path(path).read_text()))
  return total
