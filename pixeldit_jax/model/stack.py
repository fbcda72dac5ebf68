"""Equal blocks in a row: weights stacked, run as a loop or unrolled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.kernels import RESIDUALS
from pixeldit_jax.typing import PyTree

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
  'matmuls': _policies.save_from_both_policies(
    _policies.dots_with_no_batch_dims_saveable,
    _policies.save_only_these_names(RESIDUALS),
  ),
  'full': _policies.nothing_saveable,
}


def stack_blocks(
  make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs
) -> nnx.Module:
  """One module whose weights have a first axis of `depth` blocks."""

  @nnx.split_rngs(splits=depth)
  @nnx.vmap
  def make_all(rngs):
    return make(rngs)

  blocks = make_all(rngs)
  for _, weight in nnx.iter_graph(blocks):
    if isinstance(weight, nnx.Param):
      weight.set_metadata('axes', ('layers', *weight.get_metadata('axes')))
  return blocks


def run_blocks(
  blocks: nnx.Module,
  x: PyTree,
  *conditions: PyTree,
  scan: bool,
  remat: str,
) -> tuple[PyTree, PyTree]:
  """x = block(x, *conditions) for each block in turn.

  Args:
    blocks: from `stack_blocks`.
    x: input of the first block, an array or several.
    conditions: the same for every block.
    scan: one loop (True), or unrolled.
    remat: 'none', 'matmuls' or 'full'.

  Returns:
    The last output, and the outputs of all blocks (first axis), which XLA
    removes if nothing uses them.
  """
  graphdef, weights = nnx.split(blocks)
  return _run(graphdef, weights, x, conditions, scan, remat)


def run_blocks_with_feature(
  blocks: nnx.Module,
  x: PyTree,
  *conditions: PyTree,
  feature_layer: int,
  scan: bool,
  remat: str,
) -> tuple[PyTree, PyTree]:
  """`run_blocks`; the last output, and the one after `feature_layer` blocks.

  As two loops, since one loop would store the outputs of all blocks.
  """
  graphdef, weights = nnx.split(blocks)
  first, rest = split_stack(weights, feature_layer)
  feature, _ = _run(graphdef, first, x, conditions, scan, remat)
  if not jax.tree.leaves(rest)[0].size:
    return feature, feature
  x, _ = _run(graphdef, rest, feature, conditions, scan, remat)
  return x, feature


def _run(graphdef, weights, x, conditions, scan, remat):
  """The blocks of these stacked weights: last output, outputs of all."""

  def body(x, weights):
    x = nnx.merge(graphdef, weights)(x, *conditions)
    return x, x

  if remat != 'none':
    # A loop's body cannot be merged with its recomputation; unrolled, XLA
    # would undo the rematerialisation without the barrier.
    body = jax.checkpoint(
      body, policy=REMAT_POLICIES[remat], prevent_cse=not scan
    )
  if scan:
    return jax.lax.scan(body, x, weights)
  outputs = []
  for layer in unstack(weights):
    x, _ = body(x, layer)
    outputs.append(x)
  return x, jax.tree.map(lambda *a: jnp.stack(a), *outputs)


def split_stack(tree: PyTree, count: int) -> tuple[PyTree, PyTree]:
  """Every leaf split along its first axis: the first `count`, and the rest.

  By `split`, for its gradient; see `unstack`.
  """
  leaves, treedef = jax.tree.flatten(tree)
  parts = [jax.lax.split(a, (count, a.shape[0] - count)) for a in leaves]
  return tuple(treedef.unflatten(part) for part in zip(*parts))


def unstack(tree: PyTree) -> list[PyTree]:
  """A tree for each index of the first axis of every leaf.

  By `split`, whose gradient is one concatenation; that of indexing would be a
  sum of arrays as large as the full stack for every block. The barrier lets a
  CPU copy each part at once, and not element by element as it is used.
  """
  leaves, treedef = jax.tree.flatten(tree)
  parts = [jax.lax.split(a, (1,) * a.shape[0]) for a in leaves]
  parts = jax.lax.optimization_barrier(parts)
  return [
    treedef.unflatten([p.reshape(p.shape[1:]) for p in layer])
    for layer in zip(*parts)
  ]
