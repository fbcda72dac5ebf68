"""Tells weights apart by their bits, wherever and however they are sharded."""

import hashlib

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import PyTree


def fingerprint(weights: PyTree) -> str:
  """16 hexadecimal digits that change with any bit of any weight.

  Sums of integers do not depend on their order, so any mesh gives the same.
  """
  leaves = jax.tree.leaves_with_path(weights)
  names = [jax.tree_util.keystr(path) for path, _ in leaves]
  sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
  text = [f'{name} {value}' for name, value in zip(names, sums)]
  return hashlib.sha256('\n'.join(text).encode()).hexdigest()[:16]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
  return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
  """Sum modulo 2^32 of the bits, each times an odd number of its place."""
  bits = jnp.dtype(f'uint{8 * leaf.dtype.itemsize}')
  words = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)
  place = jnp.zeros_like(words)
  for axis in range(leaf.ndim):
    index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    place = place * jnp.uint32(0x9E3779B1) + index
  return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)
