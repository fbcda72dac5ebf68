"""Equal blocks in a row: weights stacked, run as a loop or unrolled."""

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pixeldit_jax.model.kernels import RESIDUALS
from pixeldit_jax.typing import PyTree

_BLOCK_INPUT = 'block_input'
_policies = jax.checkpoint_policies
REMAT_POLICIES = {
  'matmuls': _policies.save_from_both_policies(
    _policies.dots_with_no_batch_dims_saveable,
    _policies.save_only_these_names(RESIDUALS),
  ),
  'full': _policies.nothing_saveable,
  'offload': _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[_BLOCK_INPUT],
    offload_src='device',
    offload_dst='pinned_host',
  ),
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
  each: tuple[PyTree, ...] = (),
) -> tuple[PyTree, PyTree]:
  """x = block(x, *conditions) for each block in turn.

  Args:
    blocks: from `stack_blocks`.
    x: input of the first block, an array or several.
    conditions: the same for every block.
    scan: one loop (True), or unrolled.
    remat: 'none', 'matmuls', 'full' or 'offload'.
    each: more arguments, with a first axis of blocks.

  Returns:
    The last output, and the outputs of all blocks (first axis), which XLA
    removes if nothing uses them.
  """
  graphdef, weights = nnx.split(blocks)

  def body(x, layer):
    weights, each = layer
    x = jax.tree.map(lambda a: checkpoint_name(a, _BLOCK_INPUT), x)
    x = nnx.merge(graphdef, weights)(x, *conditions, *each)
    return x, x

  if remat != 'none':
    # A loop's body cannot be merged with its recomputation; unrolled, XLA
    # would undo the rematerialisation without the barrier.
    body = jax.checkpoint(
      body, policy=REMAT_POLICIES[remat], prevent_cse=not scan
    )
  if scan:
    return jax.lax.scan(body, x, (weights, each))
  outputs = []
  for i, layer in enumerate(unstack(weights)):
    x, _ = body(x, (layer, jax.tree.map(lambda a, i=i: a[i], each)))
    outputs.append(x)
  return x, jax.tree.map(lambda *a: jnp.stack(a), *outputs)


def split_blocks(
  blocks: nnx.Module, cuts: Collection[int], depth: int
) -> list[tuple[int, int, nnx.Module]]:
  """(first block, end, these blocks) of each part of a stack.

  Run apart they are several loops, since one loop would store the outputs of
  all blocks where that of one is wanted.

  Args:
    blocks: from `stack_blocks`.
    cuts: numbers of blocks after which to cut; 0 and `depth` cut nothing.
    depth: the number of blocks.
  """
  ends = sorted({cut for cut in cuts if 0 < cut < depth} | {depth})
  spans = list(zip([0, *ends], ends))
  if len(spans) == 1:
    return [(0, depth, blocks)]
  graphdef, weights = nnx.split(blocks)
  parts = split_stack(weights, [end - first for first, end in spans])
  return [
    (first, end, nnx.merge(graphdef, part))
    for (first, end), part in zip(spans, parts)
  ]


def split_stack(tree: PyTree, counts: Sequence[int]) -> list[PyTree]:
  """Every leaf split along its first axis, into parts of these lengths.

  By `split`, for its gradient; see `unstack`.
  """
  leaves, treedef = jax.tree.flatten(tree)
  parts = [jax.lax.split(a, counts) for a in leaves]
  return [jax.tree.unflatten(treedef, part) for part in zip(*parts)]


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
    jax.tree.unflatten(treedef, [p.reshape(p.shape[1:]) for p in layer])
    for layer in zip(*parts)
  ]
