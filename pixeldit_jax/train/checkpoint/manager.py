"""Checkpoints: all of a run, or only the weights that sampling needs.

Orbax writes each part of a step as an item of its own, beside and renamed, so
that a step is whole or not there, and any item can be read without the rest.
Every process writes its own shards while steps go on.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.errors import OutputError, UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.train.checkpoint import integrity, restore, retention
from pixeldit_jax.train.checkpoint.folders import (
  DAMAGED,
  ITEMS,
  folder_of,
  steps_in,
)
from pixeldit_jax.train.checkpoint.snapshot import Snapshot
from pixeldit_jax.train.run import multihost
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

# An array that is the same on many devices is cut among them to be written,
# which costs a small program for each cut. Below 1 MiB one device writes it.
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
  (
    jax.Array,
    ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20),
  )
)


def _items(state: TrainState) -> dict[str, PyTree]:
  """The state by checkpoint item; small counters stand together."""
  progress = dict(step=state.step, key=state.key, bad_steps=state.bad_steps)
  items = dict(
    weights=state.weights,
    ema=state.ema,
    opt_state=state.opt_state,
    progress=progress,
  )
  return items | ({'projector': state.projector} if state.projector else {})


class _Manager(ocp.CheckpointManager):
  """Orbax's, which would ask for preemption by numbers of its own."""

  def reached_preemption(self, step: int) -> bool:
    del step
    return False  # the loop asks: see `signals`


class _Policy:
  """`retention` as Orbax asks for it."""

  def __init__(self, checkpoint: ConfigDict, numbers: Mapping):
    self._checkpoint, self._numbers = checkpoint, numbers

  def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
    del context
    rule, steps = self._checkpoint, [info.step for info in checkpoints]
    kept = retention.kept(
      steps,
      newest=rule.keep,
      period=rule.keep_period,
      best=retention.best_step(steps, self._numbers, rule.best, rule.best_is),
    )
    return [step in kept for step in steps]


class Checkpoints:
  """The checkpoints of a run, written while steps go on."""

  def __init__(
    self,
    workdir: str,
    config: ConfigDict,
    numbers: Mapping[int, Mapping[str, float]],
  ):
    """Finds the newest whole checkpoint, and puts damaged newer ones aside.

    Args:
      workdir: of the run.
      config: of the run.
      numbers: what evaluations found, by step; read at each save, to know
        which checkpoint is the best.

    Raises:
      ValueError: there are checkpoints, but none that is whole.
    """
    self._folder = folder_of(workdir)
    self._saving, self._snapshot = None, Snapshot()
    self.newest = _newest_whole(self._folder, config.checkpoint.checksums)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=_Policy(config.checkpoint, numbers),
      cleanup_tmp_directories=True,
      async_options=ocp.options.AsyncOptions(
        # Threads that wait for a folder that could not be made would hold the
        # process for minutes after its end.
        create_directories_asynchronously=False,
        post_finalization_callback=self._before_commit,
      ),
    )
    # Uncompressed, files are written from the copy of the state itself, and
    # need no memory of their own; trained float32 shrinks by 8% at most.
    handlers = {
      item: ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=_ARRAYS
      )
      for item in ITEMS
    }
    handlers |= {k: ocp.JsonCheckpointHandler() for k in ('data', 'account')}
    self._manager = _Manager(
      self._folder, options=options, item_handlers=handlers
    )

  def save(
    self, state: TrainState, data: grain.DatasetIterator, account: PyTree
  ) -> None:
    """Starts to write; returns once the devices may go on.

    Args:
      state: of the run.
      data: its iterator; equal in all processes, as it counts global batches.
      account: what the run knows of itself, as JSON.

    Raises:
      OSError: this checkpoint, or the one before, could not be written.
    """
    with self._told():
      self._manager.wait_until_finished()
    self._saving = int(state.step)
    items = _items(self._snapshot.take(state))
    args = {k: ocp.args.PyTreeSave(v) for k, v in items.items()}
    args['data'] = ocp.args.JsonSave(data.get_state())
    args['account'] = ocp.args.JsonSave(account)
    with self._told():
      self._manager.save(
        self._saving, args=ocp.args.Composite(**args), force=True
      )

  @property
  def last(self) -> int:
    """The last step that was saved or restored, written out or not yet."""
    return self._saving or self.newest or 0

  def poll(self) -> None:
    """Takes note of a save that has ended; `newest` is then its step.

    Raises:
      OSError: it failed.
    """
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns once all is written.

    Raises:
      OSError: it could not be.
    """
    with self._told():
      self._manager.wait_until_finished()
    if self._saving is not None:
      self.newest, self._saving = self._saving, None

  def restore(
    self, like: TrainState, data: grain.DatasetIterator
  ) -> tuple[TrainState, PyTree]:
    """The newest state, placed as `like`, and the account saved with it.

    `data` is moved to the batch that comes next.
    """
    args = {
      k: ocp.args.PyTreeRestore(
        v, ocp.checkpoint_utils.construct_restore_args(v)
      )
      for k, v in _items(like).items()
    }
    args['data'] = args['account'] = ocp.args.JsonRestore()
    items = self._manager.restore(self.newest, args=ocp.args.Composite(**args))
    data.set_state(items['data'])
    state = TrainState(
      weights=items['weights'],
      ema=items['ema'],
      opt_state=items['opt_state'],
      projector=items['projector'] if like.projector else {},
      **items['progress'],
    )
    return state, items['account']

  def close(self) -> None:
    """Waits until all is written."""
    self.wait()
    self._manager.close()

  def _before_commit(self) -> None:
    """Process 0, when all processes have written their files."""
    beside = list(self._folder.glob(f'{self._saving}.orbax-checkpoint-tmp*'))
    # A bucket cannot rename: there Orbax marks the folder itself.
    integrity.write_files(
      beside[0] if beside else self._folder / str(self._saving)
    )

  @contextlib.contextmanager
  def _told(self):
    """Says of any failure to write what it means for the run."""
    try:
      yield
    except Exception as error:
      # Else every array that was not written would bury the story below.
      logging.getLogger('asyncio').setLevel(logging.CRITICAL)
      reason = (str(error).splitlines() or [type(error).__name__])[0]
      raise OutputError(
        f'the checkpoint of step {self._saving} could not be written to '
        f'{self._folder}: {reason}\nThose before it are as they were: '
        f'{steps_in(self._folder)}. Make room, or allow writing there, and '
        'start again.'
      ) from error


def _newest_whole(folder: epath.Path, checksums: bool) -> int | None:
  """The newest checkpoint that is whole; None where there is none at all."""
  damaged = {}
  for step in reversed(steps_in(folder)):
    found = integrity.damage(
      folder / str(step),
      checksums=checksums,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    if not multihost.in_any(bool(found)):
      _put_aside(folder, damaged, step)
      return step
    damaged[step] = found
  if damaged:
    raise UserError(
      f'no checkpoint in {folder} is whole:\n{integrity.describe(damaged)}\n'
      'Bring back the files that are missing or damaged; or start anew in '
      'another --workdir.'
    )
  return None


def _put_aside(
  folder: epath.Path, damaged: dict[int, list[str]], whole: int
) -> None:
  """Moves damaged checkpoints out of the way of those to come, and says so."""
  if not damaged:
    return
  aside = folder.parent / DAMAGED
  log.error(
    'DAMAGED CHECKPOINTS, moved to %s:\n%s\nGoing on from step %d, the newest '
    'whole one.',
    aside,
    integrity.describe(damaged),
    whole,
  )
  if jax.process_index() == 0:
    aside.mkdir(exist_ok=True)
    for step in damaged:
      place = aside / str(step)
      if place.exists():
        place.rmtree()
      (folder / str(step)).rename(place)
  multihost.wait_for_all('damaged checkpoints are moved')


def restore_weights(
  workdir: str,
  model: ModelConfig,
  mesh: Mesh,
  *,
  ema: bool = True,
  step: int | None = None,
  rules: sharding.Rules = sharding.RULES,
) -> tuple[PyTree, int]:
  """`restore.restore_weights`, for callers without a `CheckpointRef`."""
  ref = restore.CheckpointRef(workdir, step, ema)
  weights, ref = restore.restore_weights(ref, model, mesh, rules)
  return weights, ref.step


def newest_for_reading(
  workdir: str, item: str, step: int | None = None
) -> tuple[epath.Path, int]:
  """`CheckpointRef.resolve`, for callers without one."""
  ref = restore.CheckpointRef(workdir, step, item == 'ema').resolve()
  return folder_of(workdir), ref.step
