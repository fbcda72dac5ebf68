"""Where sampling starts: noise of sample i from only (seed, i)."""

import jax

from pixeldit_jax.typing import Array, Float, Int, Key


def sample_noise(
  seed: int | Key, indices: Int[Array, 'B'], shape: tuple[int, ...]
) -> Float[Array, 'B H W C']:
  """Standard normal images that depend on neither batch nor device.

  Args:
    seed: the same for all images of a sample set; or the key of it.
    indices: of the images in the sample set.
    shape: height, width, channels.
  """
  key = seed if isinstance(seed, jax.Array) else jax.random.key(seed)

  def one(index):
    return jax.random.normal(jax.random.fold_in(key, index), shape)

  return jax.vmap(one)(indices)
