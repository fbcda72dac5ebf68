"""Writes and restores the checkpoints of a run, while steps go on.

Orbax writes each item of a step into a temporary folder and renames the step at
the end, so a step is complete or absent, and any item can be read without the
others. Every process writes its own shards.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax.errors import OutputError, UserError
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.checkpoint import integrity, retention
from pixeldit_jax.train.checkpoint.folders import ITEMS, folder_of, steps_in
from pixeldit_jax.train.state import TrainState, first_nonfinite
from pixeldit_jax.typing import PyTree

# An array that is replicated on many devices is cut among them to be written,
# which costs a small program for each cut. Below 1 MiB one device writes it.
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
  (
    jax.Array,
    ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20),
  )
)

_DELETED = 'deleted'  # in their folder: those that are being removed

EvalMetrics = Mapping[
  int, Mapping[str, float]
]  # what evaluations found, by step


class Checkpoints:
  """The checkpoints of a run, written while steps go on.

  Attributes:
    newest: the step of the newest complete checkpoint; None if there is none.
  """

  def __init__(self, workdir: str, checkpoint: ConfigDict):
    """Finds the newest intact checkpoint, and moves damaged newer ones aside.

    Args:
      workdir: folder of the run.
      checkpoint: `config.checkpoint`.

    Raises:
      UserError: there are checkpoints, but none that is intact.
    """
    self._folder = folder_of(workdir)
    self._saving: int | None = None
    self._snapshot, self._policy = _Snapshot(), _Policy(checkpoint)
    self.newest = integrity.newest_intact(
      self._folder, steps_in(self._folder), checkpoint.checksums
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._policy,
      # Renamed at once and removed afterwards: a kill meanwhile leaves nothing
      # that looks like a checkpoint which lost some of its files.
      todelete_subdir=_DELETED,
      cleanup_tmp_directories=True,
      async_options=ocp.options.AsyncOptions(
        # Threads that wait for a folder that could not be made would hold the
        # process for minutes after its end.
        create_directories_asynchronously=False,
        post_finalization_callback=self._before_commit,
      ),
    )
    # Uncompressed, files are written from the copy of the state itself, without
    # another buffer; trained float32 would shrink by 8% at most.
    handlers = {
      item: ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=_ARRAYS
      )
      for item in ITEMS
    }
    handlers |= {k: ocp.JsonCheckpointHandler() for k in ('data', 'account')}
    self._remove_deleted()  # what a start that was killed left
    self._manager = _Manager(
      self._folder, options=options, item_handlers=handlers
    )

  @property
  def last(self) -> int:
    """The last step that was saved or restored, written out or not yet."""
    return self._saving or self.newest or 0

  def save(
    self,
    state: TrainState,
    data: grain.DatasetIterator,
    run_counters: PyTree,
    eval_metrics: EvalMetrics,
  ) -> None:
    """Starts to write; returns once the devices may go on.

    Args:
      state: of the run.
      data: its iterator; equal in all processes, as it counts global batches.
      run_counters: time and gradient norms of the run, as JSON.
      eval_metrics: decide which older checkpoint is the best and stays.

    Raises:
      OutputError: this checkpoint, or the one before, could not be written.
    """
    with self._explain_errors():
      self._manager.wait_until_finished()
    self._saving = int(state.step)
    self._policy.eval_metrics = dict(eval_metrics)
    items = _items(self._snapshot.take(state))
    args = {k: ocp.args.PyTreeSave(v) for k, v in items.items()}
    args['data'] = ocp.args.JsonSave(data.get_state())
    args['account'] = ocp.args.JsonSave(run_counters)
    with self._explain_errors():
      self._manager.save(
        self._saving, args=ocp.args.Composite(**args), force=True
      )

  def poll(self) -> None:
    """Takes note of a save that has ended; `newest` is then its step.

    Raises:
      OutputError: it failed.
    """
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns once all is written.

    Raises:
      OutputError: it could not be.
    """
    with self._explain_errors():
      self._manager.wait_until_finished()
    self._remove_deleted()
    if self._saving is not None:
      self.newest, self._saving = self._saving, None

  def restore(
    self, abstract: TrainState, data: grain.DatasetIterator
  ) -> tuple[TrainState, PyTree]:
    """Reads the newest state, and the run counters that were saved with it.

    A checkpoint with NaN or infinity is moved aside as a damaged one is.

    Args:
      abstract: shapes and shardings to restore to.
      data: the iterator, moved to the batch that comes next.

    Raises:
      UserError: no checkpoint is finite, or the state is of other tensors.
    """
    spoilt: dict[int, list[str]] = {}
    for step in reversed(steps_in(self._folder)):
      state, items = self._read(step, abstract)
      if not (name := first_nonfinite(state)):
        break
      spoilt[step] = [f'{name} holds NaN or infinity']
    else:
      raise UserError(
        f'no checkpoint in {self._folder} is finite:\n'
        f'{integrity.describe(spoilt)}\nStart anew in another --workdir.'
      )
    if spoilt:
      integrity.move_aside(self._folder, spoilt, step)
      self._manager.reload()
      self.newest = step
    data.set_state(items['data'])
    return state, items['account']

  def _read(self, step: int, abstract: TrainState) -> tuple[TrainState, PyTree]:
    """The state of a step, and all items."""
    _check_same_tensors(self._folder / str(step), _items(abstract))
    args = {
      k: ocp.args.PyTreeRestore(
        v, ocp.checkpoint_utils.construct_restore_args(v)
      )
      for k, v in _items(abstract).items()
    }
    args['data'] = args['account'] = ocp.args.JsonRestore()
    items = self._manager.restore(step, args=ocp.args.Composite(**args))
    state = TrainState(
      weights=items['weights'],
      ema=items['ema'],
      opt_state=items['opt_state'],
      projector=items['projector'] if abstract.projector else {},
      **items['progress'],
    )
    return state, items

  def close(self) -> None:
    """Waits until all is written."""
    self.wait()
    self._manager.close()

  def _remove_deleted(self) -> None:
    """Removes the checkpoints that retention did not keep."""
    deleted = self._folder / _DELETED
    if jax.process_index() == 0 and deleted.is_dir():
      # Else the next start does it: no reason to end a run.
      with contextlib.suppress(OSError):
        deleted.rmtree()

  def _before_commit(self) -> None:
    """Process 0, when all processes have written their files."""
    pattern = f'{self._saving}.orbax-checkpoint-tmp*'
    temporary = list(self._folder.glob(pattern))
    # A bucket cannot rename: there Orbax marks the folder itself.
    integrity.write_manifest(
      temporary[0] if temporary else self._folder / str(self._saving)
    )

  @contextlib.contextmanager
  def _explain_errors(self) -> Iterator[None]:
    """Re-raises write errors as OutputError with recovery instructions."""
    try:
      yield
    except Exception as error:
      # Else a traceback for every array would bury the message below.
      logging.getLogger('asyncio').setLevel(logging.CRITICAL)
      if said := buckets.refusal(error):  # nothing more is asked of it
        raise OutputError(
          f'the checkpoint of step {self._saving} could not be written to '
          f'{self._folder}: it refused or did not answer ({said}). Look at '
          'credentials and network; the same command goes on where it was.'
        ) from error
      reason = (str(error).splitlines() or [type(error).__name__])[0]
      raise OutputError(
        f'the checkpoint of step {self._saving} could not be written to '
        f'{self._folder}: {reason}\nThose before it are as they were: '
        f'{steps_in(self._folder)}. Make room, or allow writing there, and '
        'start again.'
      ) from error


def _check_same_tensors(
  folder: epath.Path, items: Mapping[str, PyTree]
) -> None:
  """Raises UserError where a checkpoint has not the tensors of a state."""
  wrong: list[str] = []
  for item, tree in items.items():
    if not (folder / item).is_dir():
      wrong.append(f'{item} was not saved')
      continue
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      stored = _shapes(reader.metadata(folder / item).item_metadata.tree)
    asked = _shapes(tree)
    wrong += [
      f'{item} {name}: {stored.get(name, "absent")} there, '
      f'{asked.get(name, "absent")} here'
      for name in sorted(stored.keys() | asked.keys())
      if stored.get(name) != asked.get(name)
    ]
  if wrong:
    more = [f'and {len(wrong) - 5} more'] if wrong[5:] else []
    raise UserError(
      f'the checkpoint {folder} is of another network or optimizer: '
      f'{"; ".join(wrong[:5] + more)}. Use the values of that run, or another '
      '--workdir (--config.init_from takes its weights alone).'
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """The shape of each array; an entry is named alike in all containers."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): tuple(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


class _Manager(ocp.CheckpointManager):
  """Orbax's, without its own check for preemption: see `run.preemption`."""

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class _Policy:
  """`retention` in the form that Orbax calls.

  Orbax has policies for the newest, every n-th and the best, but its best one
  takes the metrics that are saved with a checkpoint; here an evaluation finds
  them after the save, and the rule is that of `checkpoints --delete` too.

  Attributes:
    eval_metrics: known at the save that is under way.
  """

  def __init__(self, checkpoint: ConfigDict):
    self._rule = checkpoint
    self.eval_metrics: EvalMetrics = {}

  def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
    del context
    rule, steps = self._rule, [info.step for info in checkpoints]
    best = retention.best_step(
      steps, self.eval_metrics, rule.best, rule.best_is
    )
    kept = retention.kept(
      steps, newest=rule.keep, period=rule.keep_period, best=best
    )
    return [step in kept for step in steps]


class _Snapshot:
  """On a CPU, copies the state into one reused buffer.

  Other states are returned as they are: Orbax copies them to the host before
  steps go on. A CPU's state would be written from the buffers of the next step,
  which would have to copy them first, one after another.
  """

  def __init__(self):
    self._copy = self._last = None

  def take(self, state: PyTree) -> PyTree:
    """Arrays that no later step changes; the ones taken before are deleted."""
    if jax.default_backend() != 'cpu':
      return state
    if self._copy is None:
      self._copy = jax.jit(
        lambda old, new: jax.tree.map(jnp.copy, new),
        out_shardings=jax.tree.map(lambda a: a.sharding, state),
        donate_argnums=0,
        keep_unused=True,  # only the memory of the old one is used
      )
    self._last = jax.block_until_ready(self._copy(self._last, state))
    return self._last


def _items(state: TrainState) -> dict[str, PyTree]:
  """The state by checkpoint item; small counters are one item."""
  progress = dict(step=state.step, key=state.key, bad_steps=state.bad_steps)
  items = dict(
    weights=state.weights,
    ema=state.ema,
    opt_state=state.opt_state,
    progress=progress,
  )
  return items | ({'projector': state.projector} if state.projector else {})
