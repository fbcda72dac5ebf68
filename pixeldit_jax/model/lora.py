"""Adapters of linear layers, W + (alpha / rank) A B (LoRA, arXiv 2106.09685).

Those of all blocks are adapted, of the patches and of the pixels. A starts
random and B at 0, so that a network with adapters starts as the one without.
What is added to the table of classes, if that is asked for, is as large as the
table and starts at 0.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.model.layers import LORA, linears_of_blocks
from pixeldit_jax.typing import AnyArray, Float, PyTree


def add_adapters(
  model: Any, rank: int, alpha: float, classes: bool, rngs: nnx.Rngs
) -> None:
  """Gives adapters to the linear layers of the stacked blocks of a network.

  Args:
    model: with `layers.BLOCKS`, of `stack.stack_blocks`; changed.
    rank: of A B.
    alpha: over the rank, what A B is multiplied by.
    classes: whether something is added to a table of classes, too.
    rngs: for A.
  """
  layer: Any  # it has no adapters until here
  for _, layer in linears_of_blocks(model):
    shape, axes = layer.kernel.shape, layer.kernel.get_metadata('axes')
    end = 1 + layer.contracted  # layers first, then inputs
    fan_in = math.prod(shape[1:end])
    a = jax.random.normal(rngs.params(), (*shape[:end], rank), jnp.float32)
    layer.lora_a = nnx.Param(
      a / math.sqrt(fan_in), axes=(*axes[:end], None), inputs=end - 1
    )
    layer.lora_b = nnx.Param(
      jnp.zeros((shape[0], rank, *shape[end:]), jnp.float32),
      axes=(axes[0], None, *axes[end:]),
      inputs=1,
    )
    layer.lora_scale = alpha / rank
  if classes and hasattr(model, 'class_embed'):
    embed, table = model.class_embed, model.class_embed.table
    embed.has_added_rows = True
    embed.lora_rows = nnx.Param(
      jnp.zeros(table.shape, jnp.float32), axes=table.get_metadata('axes')
    )


def frozen_but_adapters(weights: PyTree) -> PyTree:
  """The same weights, of which only adapters get a gradient."""
  return jax.tree_util.tree_map_with_path(
    lambda path, w: w if path[-1].key in LORA else jax.lax.stop_gradient(w),
    weights,
  )


def adapters_of(tree: PyTree, also: Collection[str] = ()) -> PyTree:
  """The adapters alone, in the same nesting; what is no tree stays.

  Args:
    tree: in the form of the weights.
    also: names at the top whose trees are kept too.
  """
  if not isinstance(tree, Mapping):
    return tree
  flat = flax.traverse_util.flatten_dict(tree)
  kept = {k: v for k, v in flat.items() if k[-1] in LORA or k[0] in also}
  return flax.traverse_util.unflatten_dict(kept)


def in_place_of_adapters(part: PyTree, tree: PyTree) -> PyTree:
  """`tree` with zeros, but for what `adapters_of` gave, which is `part`."""
  found = flax.traverse_util.flatten_dict(part)
  flat = flax.traverse_util.flatten_dict(tree)
  zeros = {
    k: found[k] if k in found else jnp.zeros_like(v) for k, v in flat.items()
  }
  return flax.traverse_util.unflatten_dict(zeros)


def delta(
  a: Float[AnyArray, '...'], b: Float[AnyArray, '...'], scale: float
) -> Float[np.ndarray, '...']:
  """What adapters add to a stacked kernel [layers, *inputs, *outputs]."""
  of_layers = [np.tensordot(x, y, 1) for x, y in zip(a, b)]
  return np.float32(scale) * np.stack(of_layers).astype(np.float32)


def split_adapters(
  tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, str], list[str]]:
  """Kernels with adapters, by path 'a/b/kernel', and all that is none.

  Returns:
    The paths of the adapted kernels, each with that of its layer; and the
    paths of all weights but adapters.
  """
  rest = [name for name in tensors if name.rpartition('/')[2] not in LORA]
  layers = {
    f'{name.removesuffix("lora_a")}kernel': name.removesuffix('/lora_a')
    for name in tensors
    if name.endswith('/lora_a')
  }
  return layers, rest
