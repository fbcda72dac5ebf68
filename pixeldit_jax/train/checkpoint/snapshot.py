"""What a checkpoint is written from while steps overwrite the state.

An accelerator's state is copied to the host before steps go on. The state of a
CPU is there already: it would be written from the buffers of the next step,
which would have to copy them first, one after another.
"""

import jax
import jax.numpy as jnp

from pixeldit_jax.typing import PyTree


class Snapshot:
  """Of a CPU's state a copy, always in the same memory; others as they are."""

  def __init__(self):
    self._copy = self._last = None

  def take(self, state: PyTree) -> PyTree:
    """Arrays that no later step changes; the ones taken before are void."""
    if jax.default_backend() != 'cpu':
      return state
    if self._copy is None:
      self._copy = jax.jit(
        lambda old, new: jax.tree.map(jnp.copy, new),
        out_shardings=jax.tree.map(lambda a: a.sharding, state),
        donate_argnums=0,
        keep_unused=True,  # the old one is there for its memory
      )
    self._last = jax.block_until_ready(self._copy(self._last, state))
    return self._last
