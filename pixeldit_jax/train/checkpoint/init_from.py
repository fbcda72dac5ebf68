"""Fine-tuning: the EMA of another run becomes weights and EMA of a new one."""

import logging

import jax
import orbax.checkpoint as ocp

from pixeldit_jax.errors import UserError
from pixeldit_jax.train.checkpoint.manager import newest_for_reading
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)


def ema_of(workdir: str, like: PyTree) -> PyTree:
  """The newest EMA of a run, if its tensors are those of `like`.

  Args:
    workdir: of the other run.
    like: shapes and shardings of the weights.

  Raises:
    FileNotFoundError: the run has no checkpoint.
    UserError: tensors that are missing, too many, or of another shape.
  """
  folder, step = newest_for_reading(workdir, 'ema')
  path = folder / str(step) / 'ema'
  with ocp.StandardCheckpointer() as checkpointer:
    there = _shapes(checkpointer.metadata(path).item_metadata.tree)
    _check_same_tensors(there, _shapes(like), path)
    ema = checkpointer.restore(path, like)
  log.info(
    'Weights and EMA are the EMA of step %d of %s. Step, optimizer, data and '
    'noise start anew.',
    step,
    workdir,
  )
  return ema


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {
    '.'.join(key.key for key in path): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def _check_same_tensors(there, here, path):
  wrong = (
    [f'{name}: missing there' for name in here.keys() - there.keys()]
    + [f'{name}: not of this model' for name in there.keys() - here.keys()]
    + [
      f'{name}: {there[name]} there, {here[name]} here'
      for name in there.keys() & here.keys()
      if there[name] != here[name]
    ]
  )
  if wrong:
    raise UserError(
      f'init_from: {path} does not fit config.model:\n  '
      + '\n  '.join(sorted(wrong))
    )
