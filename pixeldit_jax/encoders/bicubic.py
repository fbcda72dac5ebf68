"""Bicubic resizing as PyTorch computes it, one matrix for each axis.

A cubic kernel weighs the four (or, antialiased, more) nearest values (Keys,
1981). `jax.image.resize` has other coefficients and other edges.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """The cubic convolution kernel of parameter a, of support 2."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(
  size: int, new_size: int, *, antialias: bool = False, offset: float = 0.0
) -> np.ndarray:
  """Maps `size` values on a line to `new_size`, [new_size, size], float32.

  Without antialiasing: a = -0.75, and values beyond the ends repeat the last
  one. With it: a = -0.5, the kernel is as wide as the new pixels, and values
  beyond the ends have no weight.

  Args:
    size: values there are.
    new_size: values wanted.
    antialias: widen the kernel when shrinking.
    offset: the step from one value to the next is size / (new_size + offset);
      not 0 only for DINOv2's positions.
  """
  step = size / (new_size + offset)
  center = step * (np.arange(new_size) + 0.5) - 0.5
  matrix = np.zeros((new_size, size))
  if antialias:
    width = max(step, 1.0)
    place = np.arange(size)
    first = np.floor(center + 1 - 2 * width)[:, None]
    last = np.floor(center + 1 + 2 * width)[:, None]
    matrix = _cubic((place - center[:, None]) / width, a=-0.5)
    matrix = np.where((first <= place) & (place < last), matrix, 0.0)
    matrix /= matrix.sum(1, keepdims=True)
  else:
    rows = np.arange(new_size)
    left = np.floor(center).astype(int)
    for neighbour in range(-1, 3):
      weight = _cubic(center - left - neighbour, a=-0.75)
      columns = np.clip(left + neighbour, 0, size - 1)
      np.add.at(matrix, (rows, columns), weight)
  return matrix.astype(np.float32)


def resize_bicubic(
  x: Float[Array, 'B H W C'],
  grid: tuple[int, int],
  *,
  antialias: bool = False,
  offset: float = 0.0,
) -> Float[Array, 'B h w C']:
  """float32 maps to another number of rows and columns."""
  down, across = (
    bicubic_matrix(n, m, antialias=antialias, offset=offset)
    for n, m in zip(x.shape[1:3], grid)
  )
  # Each output is a sum of a few inputs, some with opposite signs: in the
  # bfloat16 products of a TPU's default, errors would show.
  return jnp.einsum(
    'hH,BHWC,wW->BhwC', down, x, across, precision=jax.lax.Precision.HIGHEST
  )
