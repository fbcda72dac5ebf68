"""The least time that a program takes at the published rates of a chip."""

from collections.abc import Iterable

import jax

from pixeldit_jax.compile_report.memory_traffic import Work
from pixeldit_jax.hardware import chip_of


def roofline(
  device: jax.Device,
  work: Iterable[Work],
  received: float,
  from_slices: float = 0.0,
) -> dict[str, float]:
  """Seconds that a program takes at the full rates of a chip.

  Instructions run one after the other, each as long as its operations or its
  bytes take, whichever is longer. Asynchronous ones overlap with others. Of a
  condition every branch counts.

  Args:
    device: of the kind that runs the program.
    work: of all instructions of one device.
    received: bytes that reach one device from others of its slice.
    from_slices: bytes that reach it from other slices.

  Returns:
    'compute', 'hbm', 'interconnect' and 'network', the seconds that each is
    busy, and 'seconds', the lower bound of one call.

  Raises:
    UserError: a chip whose rates are not known.
  """
  chip = chip_of(device)
  in_order = compute = hbm = 0.0
  for w in work:
    computing = w.times * w.flops / chip.flops
    moving = w.times * w.bytes / chip.hbm_rate
    compute, hbm = compute + computing, hbm + moving
    if not w.is_async:
      in_order += max(computing, moving)
  interconnect = received / chip.interconnect_rate
  network = from_slices / chip.network_rate if chip.network_rate else 0.0
  return dict(
    compute=compute,
    hbm=hbm,
    interconnect=interconnect,
    network=network,
    seconds=max(in_order, hbm, interconnect, network),
  )
