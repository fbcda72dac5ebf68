"""Weights in a checkpoint of ours, written and read one tensor at a time.

The form is that of an item of `train.checkpoint`, which Orbax would hold as a
complete in memory, twice.
"""

import math
import os
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from pixeldit_jax.convert.lazy import LazyTensors, Spec, nested

CHUNK_BYTES = 64 * 2**20  # of a tensor, compressed and written at once


class _Leaf:
  """An array that is read when it is written, and not kept."""

  def __init__(self, tensors: LazyTensors, name: str):
    self.shape, self.dtype = tensors.specs[name]
    self.size = math.prod(self.shape)
    self._tensors, self._name = tensors, name

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self._tensors[self._name], dtype)

  def __deepcopy__(self, memo) -> '_Leaf':
    return self  # Orbax copies arrays, lest they change while it writes


class _OneByOne(ocp.type_handlers.NumpyHandler):
  """Orbax's for arrays of NumPy, which writes one after the other."""

  async def serialize(self, values: Sequence[_Leaf], infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in zip(values, infos, args):
      for writing in await super().serialize([value], [info], [arg]):
        writing.result()
    return []


def write_stored(folder: str | os.PathLike, tensors: LazyTensors) -> None:
  """Writes tensors by path ('patch_blocks/adaln/bias') as an item.

  Args:
    folder: to make; the last part is the name of the item.
    tensors: read once each, in any order.
  """
  leaves = nested({name: _Leaf(tensors, name) for name in tensors})
  chunks = jax.tree.map(
    lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), leaves
  )
  registry = ocp.type_handlers.create_type_handler_registry(
    (_Leaf, _OneByOne()), (jax.Array, ocp.type_handlers.ArrayHandler())
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, ocp.args.PyTreeSave(leaves, save_args=chunks))


def read_stored(folder: str | os.PathLike) -> LazyTensors:
  """The tensors of an item by path, whoever wrote it and on what devices."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(folder).item_metadata.tree
  there = traverse_util.flatten_dict(tree, sep='/')
  specs = {
    name: Spec(tuple(leaf.shape), np.dtype(leaf.dtype))
    for name, leaf in there.items()
  }

  def read(name):
    wanted = dict.fromkeys(there, ocp.PLACEHOLDER) | {name: 0}
    as_numpy = dict.fromkeys(there, ocp.RestoreArgs(restore_type=np.ndarray))
    args = ocp.args.PyTreeRestore(nested(wanted), nested(as_numpy))
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.restore(folder, args=args)
    return traverse_util.flatten_dict(tree, sep='/')[name]

  return LazyTensors(specs, read)
