"""Speed and time left of a run, and the writer of scalars and pictures."""

import datetime
import logging
import time
from collections.abc import Mapping

import jax
from etils import epath

from pixeldit_jax import outputs
from pixeldit_jax.config import JUDGES
from pixeldit_jax.errors import UserError
from pixeldit_jax.hardware import peak_flops
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.train.evaluator import Image
from pixeldit_jax.train.run.goodput import Goodput

log = logging.getLogger(__name__)


class Clock:
  """Speed between two logged steps, and the time that is left."""

  def __init__(
    self, step: int, steps: int, images: int, flops: float, goodput: Goodput
  ):
    """Starts now, at `step` of `steps`.

    Args:
      step: done so far.
      steps: to do in all.
      images: in one step.
      flops: model operations of one step, all devices together.
      goodput: knows how long the loop waited for data.
    """
    self._steps, self._images, self._flops = steps, images, flops
    self._goodput = goodput
    self.restart(step)
    peak = peak_flops(jax.devices()[0])
    self._peak = peak and peak * jax.device_count()

  def restart(self, step: int) -> None:
    """Leaves out the time since the last reading."""
    self._step, self._time = step, time.perf_counter()
    self._waited = self._goodput.seconds()['data']

  def read(self, step: int) -> dict[str, float]:
    """Speed since the last reading, seconds left, MFU where known.

    `data_wait` is the part of the time in which the loop waited for a batch.
    """
    elapsed = time.perf_counter() - self._time
    seconds = elapsed / max(1, step - self._step)
    waited = self._goodput.seconds()['data'] - self._waited
    speed = dict(
      images_per_second=self._images / seconds,
      seconds_per_step=seconds,
      seconds_left=seconds * (self._steps - step),
      data_wait=waited / elapsed,
    )
    self.restart(step)
    if self._peak:
      speed['mfu'] = self._flops / seconds / self._peak
    return speed


# Losses in the line of a step, of the runs that have them.
SHOWN = ('frequency', *JUDGES, 'repa')


class Writer:
  """Scalars and pictures to TensorBoard and the log, from one process."""

  def __init__(self, workdir: str, step: int, steps: int):
    self._workdir, self._steps = epath.Path(workdir), steps
    self._board = None
    if jax.process_index() == 0:
      from pixeldit_jax.train.run.tensorboard import EventFiles

      self._board = EventFiles(epath.Path(workdir) / 'events', step)

  def progress(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the metrics of a step, and a line with the ones people watch."""
    if self._board is not None:
      self._board.add(step, scalars)
      log.info('%s', progress_line(step, self._steps, scalars))

  def evaluation(
    self, step: int, scalars: Mapping[str, float], images: Mapping[str, Image]
  ) -> None:
    """Writes what evaluators found; the last pictures are PNG files, too."""
    if self._board is None:
      return
    self._board.add(step, scalars, images)
    for name, image in images.items():
      try:
        with outputs.replacing(self._workdir / f'{name}.png') as made:
          write_png(made, image)
      except (UserError, OSError) as error:  # they are in the events as well
        log.warning('%s.png could not be written: %s', name, error)

  def close(self) -> None:
    if self._board is not None:
      self._board.close()


def progress_line(step: int, steps: int, values: Mapping[str, float]) -> str:
  """'step 100/3,000  loss 0.2031  ...  left 0:01:20'."""
  left = datetime.timedelta(seconds=round(values['seconds_left']))
  parts = [
    f'step {step:,}/{steps:,}',
    f'loss {values["loss"]:.4f}',
    *(f'{name} {values[name]:.4f}' for name in SHOWN if name in values),
    f'gradient {values["gradient_norm"]:.3f}',
    f'{values["images_per_second"]:,.0f} images/s',
  ]
  if values['data_wait'] > 0.02:
    parts.append(f'{values["data_wait"]:.0%} waiting for data')
  if 'mfu' in values:
    parts.append(f'MFU {values["mfu"]:.1%}')
  if values['bad_steps']:
    parts.append(f'{values["bad_steps"]:.0f} bad steps')
  if 'goodput/step' in values:
    parts.append(f'goodput {values["goodput/step"]:.0%}')
  return '  '.join([*parts, f'left {left}'])
