"""What TPU chips can do, as published, and the least time a program takes.

Rates of one chip, from cloud.google.com/tpu/docs; bf16 operations are in
`train.metrics.PEAK_FLOPS`. The interconnect's rate is that of all links of a
chip together, in one direction (half of the bidirectional figure).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from pixeldit_jax.eval.hlo_work import Work
from pixeldit_jax.train.metrics import peak_flops


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
    ValueError: a kind that is not in the table.
  """
  for kind, chip in CHIPS.items():
    if device.device_kind.startswith(kind):
      return chip
  raise ValueError(
    f'no figures for {device.device_kind!r}: add it to CHIPS in eval/chips.py.'
  )


def roofline(
  device: jax.Device, work: Iterable[Work], received: float
) -> dict[str, float]:
  """Seconds that a program takes at the full rates of a chip.

  Instructions run one after the other, and each as long as its operations or
  its bytes take; but what is only started runs beside others. Of a condition
  every branch counts.

  Args:
    device: of the kind that runs the program.
    work: of all instructions of one device.
    received: bytes that reach one device from others.

  Returns:
    'compute', 'hbm' and 'interconnect', how long each is busy; and 'seconds',
    less than which no step takes.
  """
  chip = chip_of(device)
  alone = compute = hbm = 0.0
  for w in work:
    computing = w.times * w.flops / peak_flops(device)
    moving = w.times * w.bytes / chip.hbm_rate
    compute, hbm = compute + computing, hbm + moving
    if not w.beside:
      alone += max(computing, moving)
  interconnect = received / chip.interconnect_rate
  return dict(
    compute=compute,
    hbm=hbm,
    interconnect=interconnect,
    seconds=max(alone, hbm, interconnect),
  )
