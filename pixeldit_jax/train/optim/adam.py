"""Adam (arXiv 1412.6980) whose state skips steps of non-finite gradients.

Each moment and weight is read and written once, in place. optax's own, with a
choice between its results and the old state after it, took twice the time on
CPU, where a third of a step is spent here: XLA would copy all that is still to
be read, and keeps the results of every division.
"""

import jax
import jax.numpy as jnp
import optax

from pixeldit_jax.typing import Array, BFloat16, Float, Int, PyTree, UInt32


def scale_by_adam(
  b1: float, b2: float, eps: float, dtype: str = 'float32'
) -> optax.GradientTransformationExtraArgs:
  """Gradients to Adam's directions, with the state of `optax.scale_by_adam`.

  `update(..., finite=False)` changes no moment, whatever the gradients are.

  Args:
    b1, b2: decay of the mean of gradients, and of their squares.
    eps: added to the root.
    dtype: of the moments. In bfloat16 they are rounded up or down at random,
      so that they are right in the mean: a step changes the mean of squares by
      1 - b2, mostly less than half of what bfloat16 tells apart, and rounded to
      the nearest it would never fall. What is random depends on the count
      only, so that a run goes on as if it had not been stopped.
  """
  rounded = jnp.dtype(dtype) != jnp.float32

  def init(weights):
    def zeros():
      return jax.tree.map(lambda w: jnp.zeros_like(w, dtype), weights)

    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros(), zeros())

  def update(gradients, state, weights=None, *, finite=True, **more):
    del weights, more
    count = jnp.where(finite, state.count + 1, state.count)

    def average(old, new, b):
      old = old.astype(jnp.float32)
      return jnp.where(finite, b * old + (1 - b) * new, old)

    mu = jax.tree.map(lambda m, g: average(m, g, b1), state.mu, gradients)
    nu = jax.tree.map(lambda n, g: average(n, g**2, b2), state.nu, gradients)
    n = jnp.maximum(count, 1).astype(jnp.float32)
    unbias1, unbias2 = 1 / (1 - b1**n), 1 / (1 - b2**n)
    directions = jax.tree.map(
      lambda m, n: (unbias1 * m) / (jnp.sqrt(unbias2 * n) + eps), mu, nu
    )
    if rounded:
      noise = _noise(mu, count)
      mu = jax.tree.map(lambda m, bits: _round(m, bits & 0xFFFF), mu, noise)
      nu = jax.tree.map(lambda n, bits: _round(n, bits >> 16), nu, noise)
    return directions, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def _noise(tree: PyTree, count: Int[Array, '']) -> PyTree:
  """32 random bits for each number of a tree."""
  leaves, treedef = jax.tree.flatten(tree)
  key = jax.random.fold_in(jax.random.key(0), count)
  keys = jax.random.split(key, len(leaves))
  bits = [jax.random.bits(k, a.shape) for k, a in zip(keys, leaves)]
  return jax.tree.unflatten(treedef, bits)


def _round(
  x: Float[Array, '...'], noise: UInt32[Array, '...']
) -> BFloat16[Array, '...']:
  """One of the two neighbours in bfloat16, the nearer one more often.

  Args:
    x: float32, finite.
    noise: even below 2**16, the bits of float32 that bfloat16 lacks. A number
      that is in bfloat16 already stays as it is.
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
  upper = (bits >> 16).astype(jnp.uint16)
  return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)


def clip_by_global_norm(most: float) -> optax.GradientTransformationExtraArgs:
  """All gradients times the same factor, so that their norm is `most` or less.

  A product, where optax divides, is computed again by every reader: the
  gradients are never written twice.
  """

  def update(gradients, state, weights=None, **more):
    del weights, more
    norm = optax.global_norm(gradients)
    factor = jnp.where(norm > most, most / norm, 1.0)
    return jax.tree.map(lambda g: g * factor, gradients), state

  init = optax.identity().init
  return optax.GradientTransformationExtraArgs(init, update)
