"""What a run writes of itself, from its start to its stop."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.errors import Stopped, UserError
from pixeldit_jax.train.run import lock, multihost, workdir
from pixeldit_jax.train.run.environment import environment
from pixeldit_jax.train.run.goodput import Goodput
from pixeldit_jax.train.run.gradient_watch import Watch

log = logging.getLogger(__name__)


class Record:
  """Holds the workdir while it is entered, and keeps its files.

  Attributes:
    step: done so far.
    goodput: where the time goes.
    watch: what is remembered of every step.
    numbers: what evaluations found, by step.
  """

  def __init__(self, folder: str, config: ConfigDict):
    self._folder, self._config = folder, config
    self._resources = contextlib.ExitStack()
    self.step = 0
    self.goodput, self.watch = Goodput(), Watch()

  def __enter__(self):
    self._lock()
    self._before = workdir.read_progress(self._folder)
    self.numbers = workdir.read_evaluations(self._folder)
    changed = workdir.changes(self._folder, self._config)
    if changed:
      log.info('Changed since the last start:\n%s', workdir.lines(changed))
    workdir.write_config(self._folder, self._config)
    workdir.add_history(self._folder, 'start', changed=changed, **environment())
    return self

  def __exit__(self, kind, error, trace):
    reason = 'done'
    if kind is not None:
      reason = str(error) if kind is Stopped else f'{kind.__name__}: {error}'
    with contextlib.suppress(OSError):  # of a full disk the run tells already
      workdir.add_history(self._folder, 'stop', step=self.step, reason=reason)
    self._resources.close()

  def account(self) -> dict[str, Any]:
    """What goes into a checkpoint, as JSON has it."""
    return dict(seconds=self.goodput.seconds(), watch=self.watch.state())

  def resume(self, step: int, account: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint with this account."""
    self.step = step
    self.watch.restore(account['watch'])
    saved, last = account['seconds'], self._before.get('seconds', {})
    if self._before.get('step', step) <= step:
      saved = last  # nothing was done after it that is done again
    self.goodput.resume(saved, last)
    log.info('Resuming from step %d in %s.', step, self._folder)

  def start_anew(self) -> None:
    """Begins at step 0, if the folder does not know of any checkpoint.

    Raises:
      ValueError: it does; they are gone.
    """
    if self._before.get('saved') is not None:
      raise UserError(
        f'workdir {self._folder} had a checkpoint of step '
        f'{self._before["saved"]}, but now it has none at all. Bring the '
        'folder "checkpoints" back, or use another --workdir to start anew.'
      )
    log.info('Starting at step 0 in %s.', self._folder)

  def progress(self, saved: int | None) -> None:
    """Notes how far the run is, and the newest checkpoint that is whole."""
    progress = dict(step=self.step, saved=saved, seconds=self.goodput.seconds())
    try:
      workdir.write_progress(self._folder, progress)
    except OSError as error:  # if the disk is full, the next save tells more
      log.warning('progress.json could not be written: %s', error)

  def evaluated(self, step: int, found: Mapping[str, Any]) -> None:
    """Keeps the numbers of an evaluation."""
    self.numbers[step] = {
      name: float(value)
      for name, value in found.items()
      if not isinstance(value, np.ndarray)
    }
    workdir.add_evaluation(self._folder, step, self.numbers[step])
    best, known = self._config.checkpoint.best, self.numbers[step]
    if best and known and best not in known:
      log.warning(
        'checkpoint.best=%s is not among the numbers of this evaluation, so '
        'no checkpoint is kept for it: %s.',
        best,
        sorted(known),
      )

  def _lock(self):
    """Process 0 holds the workdir; all hear whether it could."""
    error = None
    if jax.process_index() == 0:
      try:
        self._resources.enter_context(lock.hold(self._folder))
      except (ValueError, OSError) as caught:
        error = caught
    if multihost.in_any(error is not None):
      raise error or ValueError(
        f'process 0 could not hold workdir {self._folder}.'
      )
