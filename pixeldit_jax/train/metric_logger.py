"""Metrics, read once the next step is under way, and what is wrong in them."""

import logging
import math

import jax
from ml_collections import ConfigDict

from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.run.record import Record
from pixeldit_jax.train.step import Metrics

log = logging.getLogger(__name__)


class LateLog:
  """Writes the metrics of a step once the next one is under way.

  Reading a result waits for it; one step late, the devices have work in hand.
  The small numbers of all steps in between are kept on the devices and read
  together.

  Attributes:
    read: the last step that was looked at.
    diverged: how many steps in a row were not finite, once too many were.
  """

  def __init__(
    self, writer: Writer, clock: Clock, record: Record, config: ConfigDict
  ):
    self._writer, self._clock, self._record = writer, clock, record
    self._rise = config.log.gradient_rise or math.inf
    self._max_bad_steps = (
      1 if config.debug_nans else config.optimizer.max_bad_steps
    )
    self._unread: list[tuple[int, Metrics]] = []
    self._due: tuple[int, Metrics] | None = None
    self.read = self.diverged = 0

  def later(self, step: int, metrics: Metrics, due: bool) -> None:
    """Keeps the metrics of a step; if `due`, the next flush writes them."""
    self._unread.append(
      (step, {k: metrics[k] for k in ('bad_steps', 'gradient_norm')})
    )
    if due:
      self._due = (step, metrics)

  def flush(self, everything: bool = False) -> None:
    """Reads all steps and writes the one that is due, if there is one.

    Args:
      everything: reads even if none is due.
    """
    if self._due is None and not everything:
      return
    unread, self._unread = jax.device_get(self._unread), []
    for step, values in unread:
      self._look_at(step, int(values['bad_steps']), values['gradient_norm'])
    if self._due is not None:
      step, metrics = self._due
      self._due = None
      values = {k: float(v) for k, v in jax.device_get(metrics).items()}
      values['skipped_steps'] = self._record.watch.skipped
      values |= self._clock.read(step) | self._record.goodput.fractions()
      self._writer.scalars(step, values)

  def _look_at(self, step, bad_steps, norm):
    self.read = step
    rise = self._record.watch.see(bad_steps, float(norm))
    if bad_steps:
      log.warning('Step %d was not finite: its update is skipped.', step)
    elif rise > self._rise:
      log.warning(
        'Step %d: gradient norm %.3g is %.0f times the median of those before.',
        step,
        norm,
        rise,
      )
    if bad_steps >= self._max_bad_steps:
      self.diverged = bad_steps
