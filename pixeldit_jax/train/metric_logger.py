"""Fetches the metrics of a step after the next one is dispatched.

Reading a result waits for it; one step late, the devices are busy meanwhile.
Steps that are not finite are counted, and too many in a row end the run;
gradient norms far above their median are reported.
"""

import dataclasses
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.errors import DivergenceError
from pixeldit_jax.train.evaluator import Image
from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.run.goodput import Goodput
from pixeldit_jax.train.state import TrainState, first_nonfinite
from pixeldit_jax.train.step import Metrics
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

_MEMORY = 200  # gradient norms that the next one is compared with
_WATCHED = ('bad_steps', 'gradient_norm')
_ENOUGH = 20  # with fewer there is no median


@dataclasses.dataclass
class GradientWatch:
  """Running median of gradient norms, to detect spikes.

  Attributes:
    skipped: steps so far that were not finite.
    norms: the last finite gradient norms.
  """

  skipped: int = 0
  norms: deque = dataclasses.field(
    default_factory=lambda: deque(maxlen=_MEMORY)
  )

  def see(self, bad_steps: int, norm: float) -> float:
    """Counts a step; returns its norm over the median of those before."""
    if bad_steps:
      self.skipped += 1
      return 1.0
    enough = len(self.norms) >= _ENOUGH
    rise = norm / np.median(self.norms) if enough else 1.0
    self.norms.append(norm)
    return float(rise)

  def state(self) -> dict[str, Any]:
    """The counts and norms as JSON; `restore` takes it."""
    return dict(skipped=self.skipped, norms=list(self.norms))

  def restore(self, state: Mapping[str, Any]) -> None:
    """Continues from a `state`."""
    self.skipped = state['skipped']
    self.norms = deque(state['norms'], maxlen=_MEMORY)


class MetricLogger:
  """Writes metrics one step late, and stops a run that diverges.

  Attributes:
    watch: the gradient norms so far; saved with each checkpoint.
  """

  def __init__(
    self,
    config: ConfigDict,
    writer: Writer,
    clock: Clock,
    goodput: Goodput,
    report: Callable[[TrainState, PyTree], str],
  ):
    """Starts with no steps seen.

    Args:
      config: all values.
      writer: takes the metrics.
      clock: measures the speed between two lines.
      goodput: knows where the time goes.
      report: of `nan_report`, of a state and the batch of its last step.
    """
    self._writer, self._clock, self._goodput = writer, clock, goodput
    self._report = report
    self._rise = config.log.gradient_rise or math.inf
    self._max_bad_steps = (
      1 if config.debug_nans else config.optimizer.max_bad_steps
    )
    # The small metrics of all steps stay on the devices, and are read together.
    self._unread: list[tuple[int, Metrics]] = []
    self._to_write: tuple[int, Metrics] | None = None
    self.watch = GradientWatch()

  def add(self, step: int, metrics: Metrics, log_now: bool) -> None:
    """Keeps the metrics of a step; if `log_now`, the next flush writes them."""
    watched = {k: metrics[k] for k in _WATCHED if k in metrics}
    self._unread.append((step, watched))
    if log_now:
      self._to_write = (step, metrics)

  def flush(
    self, state: TrainState, batch: PyTree, everything: bool = False
  ) -> None:
    """Reads all steps and writes the one that is to be logged, if there is one.

    Args:
      state: after the last step, which is run again if too many were not
        finite.
      batch: of the last step.
      everything: read even if none is to be logged.

    Raises:
      DivergenceError: too many steps in a row were not finite, or a step spoilt
        the state.
    """
    if self._to_write is None and not everything:
      return
    unread, self._unread = jax.device_get(self._unread), []
    diverged = 0  # the last step at which there were too many
    for step, values in unread:
      bad_steps = int(values['bad_steps'])
      self._watch(step, bad_steps, float(values['gradient_norm']))
      if bad_steps >= self._max_bad_steps:
        diverged = bad_steps
    self._write()
    with jax.transfer_guard('allow'):
      step, name = int(state.step), first_nonfinite(state)
    if name:
      raise DivergenceError(
        f'an update up to step {step} was not finite, though losses and '
        f'gradients were: {name} holds NaN or infinity now. Nothing of it '
        'is saved, and the same command goes on from the newest checkpoint; '
        'lower optimizer.learning_rate or optimizer.weight_decay first.'
      )
    if diverged:
      raise DivergenceError(
        f'loss or gradients were not finite in {diverged} steps in a row, up '
        f'to step {unread[-1][0]}. The last step run again:\n'
        f'{self._report(state, batch)}\nThe weights are those before; lower '
        'optimizer.learning_rate, or try model.modulation=post.'
      )

  def evaluated(
    self, step: int, metrics: Mapping[str, float], images: Mapping[str, Image]
  ) -> None:
    """Writes what evaluators found; their time does not count as training."""
    self._writer.evaluation(step, metrics, images)
    self._clock.restart(step)

  def close(self) -> None:
    """Closes the writer."""
    self._writer.close()

  def _watch(self, step: int, bad_steps: int, norm: float) -> None:
    rise = self.watch.see(bad_steps, norm)
    if bad_steps:
      log.warning('Step %d was not finite: its update is skipped.', step)
    elif rise > self._rise:
      log.warning(
        'Step %d: gradient norm %.3g is %.0f times the median of those before.',
        step,
        norm,
        rise,
      )

  def _write(self) -> None:
    if self._to_write is None:
      return
    step, metrics = self._to_write
    self._to_write = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    values['skipped_steps'] = self.watch.skipped
    values |= self._clock.read(step) | self._goodput.fractions()
    self._writer.progress(step, values)
