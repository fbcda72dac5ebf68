"""Peak rates of the chips that programs run on, as published.

Rates of TPUs are those of one chip, from cloud.google.com/tpu/docs. The
interconnect's rate is that of all links of a chip together, in one direction
(half of the bidirectional figure).
"""

from typing import NamedTuple

import jax

from pixeldit_jax.errors import UserError

# Dense bf16 operations a second of one device, by the start of its kind. A
# device is a chip, except for TPU7x (Ironwood), where JAX has two of a chip
# with 2,307 TFLOP/s (cloud.google.com/tpu/docs/tpu7x).
PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12 / 2,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
  'NVIDIA B200': 2250e12,
}


class Chip(NamedTuple):
  """Bytes of HBM, and bytes a second from HBM and through the interconnect."""

  hbm: float
  hbm_rate: float
  interconnect_rate: float


# By the start of the device's kind, the longer names first.
CHIPS = {
  'TPU v4': Chip(32 * 2**30, 1228e9, 300e9),
  'TPU v5 lite': Chip(16 * 2**30, 819e9, 200e9),
  'TPU v5': Chip(95 * 2**30, 2765e9, 600e9),
  'TPU v6 lite': Chip(32 * 2**30, 1600e9, 400e9),
}


def chip_of(device: jax.Device) -> Chip:
  """The figures of a device's chip.

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
  """The device's limit for bf16, or None if it is not in the table."""
  for kind, peak in PEAK_FLOPS.items():
    if device.device_kind.startswith(kind):
      return peak
  return None
