"""What TPU chips can do, as published, and the least time a program takes."""

from collections.abc import Iterable

import jax

from pixeldit_jax.compile_report.program_work import Work
from pixeldit_jax.errors import UserError
from pixeldit_jax.hardware import chip_of, peak_flops


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

  Raises:
    UserError: a chip whose rates are not known.
  """
  chip, peak = chip_of(device), peak_flops(device)
  if peak is None:
    raise UserError(f'the peak rate of {device.device_kind} is not known.')
  alone = compute = hbm = 0.0
  for w in work:
    computing = w.times * w.flops / peak
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
