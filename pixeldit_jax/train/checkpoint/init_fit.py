"""Fits the weights of another run to a network of other classes or patches.

Rows of classes follow their names, what belongs to the pixels of a patch is
resampled, and what the other network has not is new, without effect where that
can be: classes at 0, the values of texts at 0.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from pixeldit_jax import sharding
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.resize import cell_matrix
from pixeldit_jax.model.layers import LORA
from pixeldit_jax.model.pixeldit import abstract_model, matrix_axes_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.run import workdir as run_folder
from pixeldit_jax.train.run.trained_on import read_class_names
from pixeldit_jax.typing import Array, Float, PyTree

log = logging.getLogger(__name__)

TABLE = 'class_embed.table'
NEW = 'step_embed'  # what starts without effect where it is not stored
_IMAGE, _TEXT = 'patch_blocks.image.', 'patch_blocks.text.'
_BLOCKS = 'patch_blocks.'
_SHOWN = 10  # names in a line of the log


@dataclasses.dataclass(frozen=True)
class Fitted:
  """What is read of a checkpoint, and what becomes of it.

  Attributes:
    read: shapes and shardings of its tensors.
    finish: f(tensors read) -> the weights of the new run.
  """

  read: PyTree
  finish: Callable[[PyTree], PyTree]


@dataclasses.dataclass(frozen=True)
class InitFit:
  """Fits the EMA of `config.init_from` to the network of a new run.

  Attributes:
    context: of the new run.
    class_names: of its data, by label; () without classes.
    fresh: its random weights, for what the other run has not.
  """

  context: RunContext
  class_names: Sequence[str]
  fresh: PyTree

  def __call__(self, stored: PyTree, like: PyTree) -> Fitted:
    """What to read of the stored tensors.

    Args:
      stored: their shapes.
      like: shapes and shardings of the new weights.
    """
    there = {name: leaf.shape for name, leaf in flatten(stored).items()}
    here, fresh = flatten(like), flatten(self.fresh)
    sources = {name: self._source(name, there) for name in here}
    inputs = flatten(matrix_axes_of(abstract_model(self.context.model)))
    sides = self._sides(there, here)
    everywhere = sharding.replicated(self.context.mesh)
    read: dict[str, Any] = {}
    rebuilt = set()  # from a copy that every device holds, or anew
    for name, source in sources.items():
      if source is None:
        rebuilt.add(name)
        continue
      # A tensor of any other shape is refused by who reads it.
      read[source] = here[name]
      resampled = _is_resampled(there.get(source), here[name].shape, sides)
      if (name == TABLE and source in there) or resampled:
        rebuilt.add(name)
        shape = there[source]
        read[source] = self._replicated(shape, here[name], everywhere)
    dropped = self._dropped(there, here)
    for name in dropped:
      read[name] = self._replicated(
        there[name], next(iter(here.values())), everywhere
      )
    new = [n for n, source in sources.items() if source is None]
    self._tell([n for n in new if n.rpartition('.')[2] not in LORA], dropped)

    def rebuild(name: str, source: str | None, found: Mapping[str, Any]):
      if source is None:
        return _new(name, fresh[name])
      value = np.asarray(found[source])
      if name == TABLE:
        return self._table(value, fresh[name])
      return _resample(value, here[name].shape, sides, *inputs[name])

    def finish(tree: PyTree) -> PyTree:
      found, weights = flatten(tree), {}
      for name, source in sources.items():
        if name in rebuilt:
          weights[name] = _put(rebuild(name, source, found), here[name])
        elif source is not None:
          weights[name] = found[source]
      return flax.traverse_util.unflatten_dict(weights, sep='.')

    return Fitted(flax.traverse_util.unflatten_dict(read, sep='.'), finish)

  def _replicated(self, shape, leaf, everywhere) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=everywhere)

  def _source(self, name: str, there: Mapping[str, Any]) -> str | None:
    """The stored tensor that becomes `name`; None if it is new."""
    new = name.startswith(f'{NEW}.') or name.rpartition('.')[2] in LORA
    if new and name not in there:
      return None
    text_there = any(n.startswith(_IMAGE) for n in there)
    text_here = bool(self.context.model.text_width)
    if text_here and not text_there:
      if name.startswith((_TEXT, 'text_embed.')):
        return None
      return name.replace(_IMAGE, _BLOCKS)
    if text_there and not text_here:
      if name == TABLE:
        return None
      return name.replace(_BLOCKS, _IMAGE)
    return name

  def _dropped(self, there: Mapping[str, Any], here: Mapping[str, Any]):
    """Stored tensors that the new network has no use for, by design."""
    if (TABLE in there) == (TABLE in here):
      return []
    starts = (TABLE, _TEXT, 'text_embed.')
    return [n for n in there if n.startswith(starts) and n not in here]

  def _sides(self, there, here) -> tuple[int, int] | None:
    """The sides of a patch there and here, if they differ."""
    stored = self._stored_config().get('model', {}).get('patch_size')
    side = self.context.model.patch_size
    return (stored, side) if stored and stored != side else None

  def _stored_config(self) -> dict[str, Any]:
    """The configuration of the other run, {} where only weights are there."""
    folder = self.context.config.init_from
    if not (epath.Path(folder) / 'config.json').is_file():
      return {}
    return run_folder.read_config(folder).to_dict()

  def _table(self, table: np.ndarray, fresh: jax.Array) -> np.ndarray:
    """Rows of the new classes; the last one, of no class, stays."""
    rule, names = self.context.config.init_classes, list(self.class_names)
    old, count = class_names_of(self.context.config), len(table) - 1
    new = np.array(jax.device_get(fresh))
    new[-1] = table[-1]
    if len(new) == 1:
      return new
    unnamed = rule == 'match' and not (old and names)
    if rule == 'match' and (old == names or unnamed) and len(new) == len(table):
      log.info('Classes: all %d rows are kept.', count)
      return table
    kept = {}
    if rule == 'match' and len(old) == count:
      kept = {k: old.index(n) for k, n in enumerate(names) if n in old}
    if rule != 'new':
      new[:-1] = table[:-1].mean(0) if count else table[-1]
    for k, row in kept.items():
      new[k] = table[row]
    others = [k for k in range(len(new) - 1) if k not in kept]
    if others and rule != 'new':
      self._check_rows_are_trained(len(others))
    log.info(
      'Classes: %d of %d keep their rows by name%s; %d start %s%s.',
      len(kept),
      len(new) - 1,
      _some([names[k] for k in kept]),
      len(others),
      'anew' if rule == 'new' else 'from the mean of the table',
      _some([names[k] for k in others if k < len(names)]),
    )
    if unnamed:
      log.warning(
        'The names of the %d classes of %s are not known: none is matched.',
        count,
        self.context.config.init_from,
      )
    return new

  def _check_rows_are_trained(self, count: int) -> None:
    lora = self.context.config.lora
    if lora.rank and not lora.classes:
      raise UserError(
        f'lora.rank={lora.rank} trains only adapters, and {count} classes '
        f'have no row in the table of {self.context.config.init_from}: they '
        'would stay alike. Add --config.lora.classes=True.'
      )

  def _tell(self, new: Sequence[str], dropped: Sequence[str]) -> None:
    """Says what differs from the other run, beside the classes."""
    stored = flatten(self._stored_config())
    here = flatten(self.context.config.to_dict())
    for key, how in (
      ('data.resolution', _positions(self.context.model)),
      ('model.patch_size', 'what belongs to its pixels is resampled'),
    ):
      if key in stored and stored[key] != here[key]:
        log.info('%s: %s there, %s here; %s.', key, stored[key], here[key], how)
    if any(name.startswith(f'{NEW}.') for name in new):
      log.info(
        '%s has no %s: it starts without effect.',
        self.context.config.init_from,
        NEW,
      )
    new = [name for name in new if not name.startswith(f'{NEW}.')]
    if TABLE in new:
      self._check_rows_are_trained(self.context.model.num_classes)
    if new:
      effect = 'class has no effect' if TABLE in new else 'texts bring nothing'
      log.info(
        '%d tensors are new%s: at first the %s.', len(new), _some(new), effect
      )
    if dropped:
      log.info('%d tensors are left out%s.', len(dropped), _some(dropped))


def class_names_of(config: Any) -> list[str]:
  """The names of the classes of `config.init_from`; [] if they are not known.

  They are those that the run keeps, or those of its data, where they still are.
  """
  if names := read_class_names(config.init_from):
    return list(names)
  if not (epath.Path(config.init_from) / 'config.json').is_file():
    return []
  try:
    spec = run_folder.read_config(config.init_from).data.source
    return list(open_source(spec).class_names)
  except UserError:
    return []


def _positions(model) -> str:
  if model.positions == 'rope' and model.rotary == 'span':
    return 'positions are rescaled to the same span'
  return 'positions count on beyond those that were trained'


def _some(names: Sequence[str]) -> str:
  """' (a, b and 3 more)', escaped, as anyone may have chosen the names."""
  if not names:
    return ''
  shown = ', '.join(ascii(n)[1:-1] for n in names[:_SHOWN])
  more = len(names) - _SHOWN
  return f' ({shown} and {more} more)' if more > 0 else f' ({shown})'


def _new(name: str, fresh: jax.Array) -> np.ndarray:
  """A tensor that the other run has not, without effect where that can be."""
  value = np.array(jax.device_get(fresh))
  if name == TABLE:
    value[:] = 0
  elif name.startswith(_TEXT + 'attn.qkv.'):
    # [layers, inputs, 3, D] or, of biases, [layers, 3, D]: q, k and v.
    value[..., 2, :] = 0
  return value


def _is_resampled(
  stored: tuple[int, ...] | None,
  shape: tuple[int, ...],
  sides: tuple[int, int] | None,
) -> bool:
  """Whether shapes differ in the pixels of a patch alone."""
  if stored is None or sides is None or len(stored) != len(shape):
    return False
  pairs = {(a, b) for a, b in zip(stored, shape) if a != b}
  return pairs == {(sides[0] ** 2, sides[1] ** 2)}


def _resample(
  value: Float[np.ndarray, '...'],
  shape: tuple[int, ...],
  sides: tuple[int, int] | None,
  layers: int,
  inputs: int,
) -> Float[Array | np.ndarray, '...']:
  """Resizes the axes of pixels as images; sums over them stay as they are."""
  assert sides is not None
  line = cell_matrix(*sides)
  matrix = np.kron(line, line)  # [new pixels, old pixels], row by row
  for axis, (old, new) in enumerate(zip(value.shape, shape)):
    if old == new:
      continue
    value = np.moveaxis(np.tensordot(matrix, value, (1, axis)), 0, axis)
    if layers <= axis < layers + inputs:
      value = value * (sides[0] / sides[1]) ** 2
  return value.astype(np.float32)


def _put(value: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
  """An array that all processes hold, split as `like`."""
  value = np.asarray(value, like.dtype)
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: value[index]
  )
