"""The log of a run: lock, history, progress and evaluation files."""

import contextlib
import functools
import importlib.metadata
import logging
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from pixeldit_jax import settings
from pixeldit_jax.errors import Stopped, UserError
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.run import lock, multihost, trained_on, workdir
from pixeldit_jax.train.run.goodput import Goodput
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

_ROOT = pathlib.Path(__file__).parents[3]
_WRITE = 60.0  # seconds between two times that progress.json goes to a bucket


class Record:
  """Holds the workdir while it is entered, and keeps its files.

  Attributes:
    step: the last step done.
    goodput: where the time goes.
    eval_metrics: what evaluations found, by step.
    step_bytes: memory of a device that a step needs, once it is compiled.
  """

  def __init__(
    self,
    folder: str,
    config: ConfigDict,
    classes: Sequence[str] = (),
    text_encoder: Mapping[str, Any] | None = None,
  ):
    """Nothing is written yet.

    Args:
      folder: the workdir.
      config: all values.
      classes: names of the classes of the data.
      text_encoder: `meta` of the text encoder, of a run with texts.
    """
    self._folder, self._config = folder, config
    self._classes, self._text_encoder = classes, text_encoder
    self._begun = self._claimed = False
    self._held: lock.Held | lock.HeldInBucket | None = None  # in process 0
    self._resources = contextlib.ExitStack()
    self.step = self.step_bytes = 0
    self._saved: int | None = -1  # what progress.json says, and since when
    self._written = 0.0
    self.goodput = Goodput()

  def __enter__(self):
    self._lock()
    self._before = workdir.read_progress(self._folder)
    self.eval_metrics = workdir.read_evaluations(self._folder)
    return self

  def begin(self, weights: PyTree) -> None:
    """Notes the start, once nothing of it can be refused any more.

    A folder without a checkpoint does not become that of this run by it.

    Args:
      weights: of the network, for the overview.
    """
    self._begun = True
    changed = workdir.changes(self._folder, self._config)
    if changed:
      log.info('Changed since the last start:\n%s', settings.describe(changed))
    workdir.add_history(self._folder, 'start', changed=changed, **environment())
    if self.step:
      self.claim()
    else:
      workdir.write_overview(self._folder, weights)

  def claim(self) -> None:
    """Writes what this run is, before its first checkpoint, or at a resume."""
    if self._claimed:
      return
    workdir.write_config(self._folder, self._config)
    if self._text_encoder:
      trained_on.keep_text_encoder(self._folder, self._text_encoder)
    elif self._classes:
      trained_on.write_classes(self._folder, self._classes)
    self._claimed = True

  def __exit__(self, kind, error, trace):
    reason = 'done'
    if kind is not None:
      reason = str(error) if kind is Stopped else f'{kind.__name__}: {error}'
    # A full disk is reported by the error that ends the run.
    with contextlib.suppress(OSError):
      if self._begun:
        workdir.add_history(self._folder, 'stop', step=self.step, reason=reason)
      elif jax.process_index() == 0:
        workdir.remove_empty_folders(self._folder)
    self._resources.close()

  def check_lock(self) -> None:
    """Raises UserError, in all processes, unless the lock is still ours."""
    error = self._held.lost() if self._held else ''
    if multihost.in_any(bool(error)):
      raise UserError(error or 'process 0 has lost the workdir; it says why.')

  def start_anew(self) -> None:
    """Begins at step 0, unless the folder once had a checkpoint.

    Raises:
      UserError: it had; they are gone.
    """
    if self._before.get('saved') is not None:
      raise UserError(
        f'workdir {self._folder} had a checkpoint of step '
        f'{self._before["saved"]}, but now it has none at all. Bring the '
        'folder "checkpoints" back, or use another --workdir to start anew.'
      )
    workdir.forget_evaluations(self._folder)
    self.eval_metrics = {}
    log.info('Starting at step 0 in %s.', self._folder)

  def resume(self, step: int, seconds: Mapping[str, float]) -> None:
    """Goes on from a checkpoint.

    Args:
      step: of the checkpoint.
      seconds: of each phase until then.
    """
    self.step = step
    last = self._before.get('seconds', {})
    if self._before.get('step', step) <= step:
      seconds = last  # no step after the checkpoint has to be done again
    self.goodput.resume(seconds, last)
    log.info('Resuming from step %d in %s.', step, self._folder)

  def advance(self, step: int) -> None:
    """Takes note of a step that was dispatched."""
    self.step = step

  def progress(self, saved: int | None) -> None:
    """Writes the step, and that of the newest complete checkpoint.

    Into a bucket once in a while, and at once when there is a checkpoint.
    """
    now = time.monotonic()
    if buckets.is_remote(self._folder) and saved == self._saved:
      if now < self._written + _WRITE:
        return
    self._saved, self._written = saved, now
    progress = dict(
      step=self.step,
      saved=saved,
      seconds=self.goodput.seconds(),
      step_bytes=self.step_bytes,
    )
    try:
      workdir.write_progress(self._folder, progress)
    except OSError as error:  # if the disk is full, the next save says more
      log.warning('progress.json could not be written: %s', error)

  def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
    """Keeps the metrics of an evaluation."""
    self.eval_metrics[step] = {k: float(v) for k, v in metrics.items()}
    workdir.add_evaluation(self._folder, step, metrics)
    best = self._config.checkpoint.best
    # Evaluators have steps of their own: another may have given it.
    known = any(best in found for found in self.eval_metrics.values())
    if best and metrics and not known:
      log.warning(
        'checkpoint.best=%s is not among the metrics of this evaluation, so '
        'no checkpoint is kept for it: %s.',
        best,
        sorted(metrics),
      )

  def _lock(self):
    """Process 0 locks the workdir; all processes fail if it cannot."""
    error = None
    if jax.process_index() == 0:
      try:
        self._held = self._resources.enter_context(lock.hold(self._folder))
      except (UserError, OSError) as caught:
        error = caught
    if multihost.in_any(error is not None):
      raise error or UserError(
        f'process 0 could not lock workdir {self._folder}; it says why.'
      )


def environment() -> dict[str, Any]:
  """Command, versions, git state and devices of this start, as JSON."""
  device = jax.devices()[0]
  return dict(
    command=shlex.join([sys.executable, *sys.argv]),
    git=git_state(_ROOT),
    processes=jax.process_count(),
    devices=f'{jax.device_count()} x {device.device_kind}',
    host=platform.node(),
    python=platform.python_version(),
    packages=packages(),
  )


@functools.cache  # they take a second to read
def packages() -> dict[str, str]:
  """The version of every package that Python finds."""
  return {
    name: version
    for name, version in sorted(
      (d.metadata['Name'] or '', d.version)
      for d in importlib.metadata.distributions()
    )
    if name
  }


def git_state(folder: pathlib.Path) -> dict[str, Any] | None:
  """The commit, and the files changed since; None outside a checkout."""

  def git(*words):
    done = subprocess.run(
      ['git', '-C', str(folder), *words], capture_output=True, text=True
    )
    done.check_returncode()
    return done.stdout

  try:
    return dict(
      commit=git('rev-parse', 'HEAD').strip(),
      changed=git('status', '--porcelain').splitlines(),
      diff=git('diff', 'HEAD', '--shortstat').strip(),
    )
  except (OSError, subprocess.CalledProcessError):
    return None
