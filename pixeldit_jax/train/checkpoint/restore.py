"""Reads the weights of a run: to sample, to evaluate, to start another run.

Neither optimizer nor data iterator is read, and the run may train meanwhile.
"""

import dataclasses
import logging
import re
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from pixeldit_jax import sharding
from pixeldit_jax.convert.adapters import add_adapters
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import abstract_model, axes_of, weights_of
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in
from pixeldit_jax.train.run import multihost
from pixeldit_jax.train.state import first_nonfinite
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointRef:
  """One set of weights of a run.

  Attributes:
    workdir: folder of the run.
    step: of the checkpoint; None is the newest that is complete.
    ema: the moving average, or the weights as trained.
    checksums: read the files once to compare them with what was written, or
      compare their sizes only.
    adapters: files of adapters that are added, each with its scale.
  """

  workdir: str
  step: int | None = None
  ema: bool = True
  checksums: bool = True
  adapters: tuple[tuple[str, float], ...] = ()

  @classmethod
  def of_text(cls, text: str) -> 'CheckpointRef':
    """'runs/x', of which the newest is meant, or 'runs/x@1000'."""
    if match := re.fullmatch(r'(.+)@(\d+)', text):
      return cls(match[1], int(match[2]))
    return cls(text)

  @property
  def item(self) -> str:
    """The part of a checkpoint that holds these weights."""
    return 'ema' if self.ema else 'weights'

  @property
  def path(self) -> epath.Path:
    """The folder of these weights, once the step is known."""
    return folder_of(self.workdir) / str(self.step) / self.item

  def resolve(self) -> 'CheckpointRef':
    """The same with the number of its step, whose files are complete.

    Raises:
      MissingFileError: no checkpoint, not of this step, or a damaged one.
    """
    return dataclasses.replace(self, step=_complete_step(self, False))

  def verified(self) -> 'CheckpointRef':
    """As `resolve`, once the bytes are what was written; all processes call it.

    Raises:
      MissingFileError: as `resolve`.
    """
    return dataclasses.replace(self, step=_complete_step(self, self.checksums))


def restore_weights(
  ref: CheckpointRef,
  model: ModelConfig,
  mesh: Mesh,
  rules: sharding.Rules = sharding.RULES,
) -> tuple[PyTree, CheckpointRef]:
  """Reads the weights of a run onto the devices.

  Args:
    ref: which weights.
    model: the network of the run.
    mesh: the devices, which need not be those of the run.
    rules: logical axes to mesh axes.

  Returns:
    The weights, and `ref` with their step.

  Raises:
    MissingFileError: see `CheckpointRef.resolve`.
    UserError: a weight is NaN or infinite.
  """
  ref = ref.verified()
  network = abstract_model(model)
  like = sharding.with_shardings(
    weights_of(network),
    sharding.weight_shardings(axes_of(network), mesh, rules),
  )
  with ocp.StandardCheckpointer() as checkpointer:
    weights = checkpointer.restore(ref.path, like)
  if ref.adapters:
    if model.lora_rank or jax.process_count() > 1:
      raise UserError(
        '--adapters are added to a network without adapters of its own, by one '
        'process: give the run that they were trained from.'
      )
    added = add_adapters(jax.device_get(weights), model, dict(ref.adapters))
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    weights = jax.device_put(added, places)
  _check_finite(weights, ref)
  return weights, ref


def restore_init(
  workdir: str, like: PyTree, fit: Callable[..., Any] | None = None
) -> PyTree:
  """Reads the newest EMA of another run, which a new run starts from.

  A network that is given its steps (`model.mean_flow`) also starts from one
  that is not: with `fit`, what it has for that starts without effect.

  Args:
    workdir: folder of the other run.
    like: shapes and shardings of the weights of the new run.
    fit: an `init_fit.InitFit`, for a network that is another in part; without
      it all must be stored.

  Raises:
    MissingFileError: the other run has no checkpoint.
    UserError: tensors that are missing, too many, or of another shape, or that
      hold NaN or infinity.
  """
  ref = CheckpointRef(workdir).verified()
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(ref.path).item_metadata.tree
    fitted = fit(stored, like) if fit else None
    read = fitted.read if fitted else like
    _check_same_tensors(_shapes(stored), _shapes(read), ref.path)
    ema = checkpointer.restore(ref.path, read)
  _check_finite(ema, ref)
  log.info(
    'Weights and EMA are the EMA of step %d of %s. Step, optimizer, data and '
    'noise start anew.',
    ref.step,
    workdir,
  )
  return fitted.finish(ema) if fitted else ema


def _complete_step(ref: CheckpointRef, checksums: bool) -> int:
  """The step of a checkpoint that has all files of the item."""
  folder = folder_of(ref.workdir)
  steps = steps_in(folder)
  if not steps:
    raise MissingFileError(
      f'workdir {ref.workdir} has no checkpoint: {folder} is '
      f'{"empty" if folder.is_dir() else "absent"}. Train first, or give '
      'another --workdir.'
    )
  if ref.step is not None and ref.step not in steps:
    raise MissingFileError(
      f'no checkpoint of step {ref.step} in {folder}; there are {steps}.'
    )
  damaged: dict[int, list[str]] = {}
  for step in reversed(steps) if ref.step is None else [ref.step]:
    found = _damage(folder / str(step), ref.item, checksums)
    if not found:
      if damaged:
        log.error(
          'DAMAGED CHECKPOINTS, passed over:\n%s', integrity.describe(damaged)
        )
      return step
    damaged[step] = found
  raise MissingFileError(
    f'no checkpoint in {folder} has all files of its {ref.item}:\n'
    f'{integrity.describe(damaged)}'
  )


def _damage(path: epath.Path, item: str, checksums: bool) -> list[str]:
  """The damage of an item of a checkpoint, the same list in all processes."""
  if not (path / integrity.FILES).exists():
    # Other code wrote it: there is nothing to compare with.
    if checksums:
      log.warning('%s has no %s: it is not verified.', path, integrity.FILES)
    return []
  if not checksums:
    return integrity.verify(path, checksums=False, part=item)
  found = integrity.verify(
    path,
    checksums=True,
    part=item,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  if multihost.in_any(bool(found)):
    return found or ['files that other processes read']
  return []


def _check_finite(weights: PyTree, ref: CheckpointRef) -> None:
  if name := first_nonfinite(weights):
    raise UserError(
      f'{ref.path}: {name} holds NaN or infinity, of which no image can be '
      'made. Take an earlier --step, or another run.'
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def _check_same_tensors(stored, expected, path: epath.Path) -> None:
  wrong = (
    [f'{name}: missing there' for name in expected.keys() - stored.keys()]
    + [f'{name}: not of this model' for name in stored.keys() - expected.keys()]
    + [
      f'{name}: {stored[name]} there, {expected[name]} here'
      for name in stored.keys() & expected.keys()
      if stored[name] != expected[name]
    ]
  )
  if wrong:
    raise UserError(
      f'init_from: {path} does not fit config.model:\n  '
      + '\n  '.join(sorted(wrong))
    )
