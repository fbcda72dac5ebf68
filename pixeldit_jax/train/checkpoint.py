"""Checkpoints: all of a run, or only the weights that sampling needs.

Orbax writes each part of a step as an item of its own, beside and renamed, so
that a step is whole or not there, and any item can be read without the rest.
"""

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import abstract_model, axes_of, weights_of
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.typing import PyTree

# An array that is the same on many devices is cut among them to be written,
# which costs a small program for each cut. Below 1 MiB one device writes it.
ocp.type_handlers.register_type_handler(
  jax.Array,
  ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20),
  override=True,
)

FOLDER = 'checkpoints'
ITEMS = ('weights', 'ema', 'opt_state', 'progress', 'projector')


def _folder(workdir: str) -> epath.Path:
  """Where the checkpoints of a run are, on disk or in a bucket."""
  path = epath.Path(workdir)
  return (path if '://' in workdir else path.absolute()) / FOLDER


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


class Checkpoints:
  """The checkpoints of a run, written while steps go on."""

  def __init__(self, workdir: str, config: ConfigDict):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=config.checkpoint.keep,
      keep_period=config.checkpoint.keep_period or None,
      cleanup_tmp_directories=True,
    )
    self._manager = ocp.CheckpointManager(
      _folder(workdir),
      options=options,
      item_names=(*ITEMS, 'data'),
    )

  def latest(self) -> int | None:
    """The newest whole step, or None."""
    return self._manager.latest_step()

  def save(self, state: TrainState, data: grain.DatasetIterator) -> None:
    """Starts to write; returns once the devices may go on."""
    args = {k: ocp.args.StandardSave(v) for k, v in _items(state).items()}
    # Equal in all processes: it counts batches of the whole run.
    args['data'] = ocp.args.JsonSave(data.get_state())
    self._manager.save(int(state.step), args=ocp.args.Composite(**args))

  def restore(
    self, step: int, like: TrainState, data: grain.DatasetIterator
  ) -> TrainState:
    """The state at a step, placed as `like`; `data` is moved to that batch."""
    args = {k: ocp.args.StandardRestore(v) for k, v in _items(like).items()}
    args['data'] = ocp.args.JsonRestore()
    items = self._manager.restore(step, args=ocp.args.Composite(**args))
    data.set_state(items['data'])
    return TrainState(
      weights=items['weights'],
      ema=items['ema'],
      opt_state=items['opt_state'],
      projector=items['projector'] if like.projector else {},
      **items['progress'],
    )

  def close(self) -> None:
    """Waits until all is written."""
    self._manager.close()


def restore_weights(
  workdir: str,
  model: ModelConfig,
  mesh: Mesh,
  *,
  ema: bool = True,
  step: int | None = None,
  rules: sharding.Rules = sharding.RULES,
) -> tuple[PyTree, int]:
  """Weights of a run for sampling; neither optimizer nor data is read.

  Args:
    workdir: of the run.
    model: its network.
    mesh: where the weights are to lie; any mesh will do.
    ema: the moving average, or the weights as trained.
    step: which checkpoint, the newest by default.
    rules: logical axes to mesh axes.

  Returns:
    The weights, and the step that they are of.

  Raises:
    FileNotFoundError: no checkpoint, or not of this step.
  """
  folder = _folder(workdir)
  steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
  if not steps:
    raise FileNotFoundError(
      f'workdir {workdir} has no checkpoint: {folder} is '
      f'{"empty" if folder.is_dir() else "absent"}. Train first, or give '
      'another --workdir.'
    )
  step = max(steps) if step is None else step
  if step not in steps:
    raise FileNotFoundError(
      f'no checkpoint of step {step} in {folder}; there are {sorted(steps)}.'
    )
  network = abstract_model(model)
  like = sharding.placed(
    weights_of(network),
    sharding.weight_shardings(axes_of(network), mesh, rules),
  )
  path = folder / str(step) / ('ema' if ema else 'weights')
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path, like), step
