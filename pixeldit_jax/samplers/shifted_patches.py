"""Patches that lie elsewhere in each evaluation: their borders do not add up.

A young network errs by a patch at a time. As the patches are the same in each
step, what it errs by adds up to a grid. Cycle spinning (Coifman and Donoho
1995, Translation-invariant de-noising) is the mean over moved grids; here each
evaluation of a solver takes another one, which costs nothing.

It asks of a network that it draws things anywhere: one that has seen them in
one position, as centred digits, draws them at several at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def on_shifted_patches(
  velocity: Callable[..., jax.Array], patch_size: int
) -> Callable[..., jax.Array]:
  """A velocity of images that are moved by less than a patch, and back.

  What leaves at one edge enters at the other. How far depends on the time only,
  so that images depend on no others, and on no batch.

  Args:
    velocity: f(x, t, ...) of images [B, H, W, C].
    patch_size: side of a patch.
  """

  def shift_of(t):
    bits = jax.lax.bitcast_convert_type(jnp.float32(t), jnp.uint32)
    key = jax.random.fold_in(jax.random.key(0), bits)
    return jax.random.randint(key, (2,), 0, patch_size)

  def roll(image, shift):
    return jnp.roll(image, shift, (-3, -2))

  def shifted(x, t, *more):
    many = jnp.ndim(t) > 0  # times of images, which are moved one by one
    shift = jax.vmap(shift_of)(t) if many else shift_of(t)
    move = jax.vmap(roll) if many else roll
    return move(velocity(move(x, shift), t, *more), -shift)

  return shifted
