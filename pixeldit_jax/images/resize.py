"""Resizes maps by one matrix for each axis, as other code computes it.

| matrix            | as                                                    |
|-------------------|-------------------------------------------------------|
| bicubic_matrix    | PyTorch's bicubic, with or without antialiasing       |
| cell_matrix       | means of cells when shrinking, linear when growing    |
| tensorflow_matrix | the bilinear resize of TensorFlow 1                   |

`jax.image.resize` has other coefficients and other edges.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float, Int


def bicubic_matrix(
  size: int, new_size: int, *, antialias: bool = False, offset: float = 0.0
) -> Float[np.ndarray, 'new old']:
  """Maps `size` values on a line to `new_size` by Keys' cubic convolution.

  Without antialiasing: a = -0.75, and values beyond the ends repeat the last
  one. With it: a = -0.5, the kernel is as wide as the new pixels, and values
  beyond the ends have no weight.

  Args:
    size: number of values.
    new_size: number of values wanted.
    antialias: widen the kernel when shrinking.
    offset: the step from one value to the next is size / (new_size + offset);
      not 0 only for DINOv2's positions.
  """
  step = size / (new_size + offset)
  center = step * (np.arange(new_size) + 0.5) - 0.5
  if antialias:
    width = max(step, 1.0)
    old = np.arange(size)
    first = np.floor(center + 1 - 2 * width)[:, None]
    last = np.floor(center + 1 + 2 * width)[:, None]
    matrix = _cubic((old - center[:, None]) / width, a=-0.5)
    matrix = np.where((first <= old) & (old < last), matrix, 0.0)
    matrix /= matrix.sum(1, keepdims=True)
    return matrix.astype(np.float32)
  nearest = np.floor(center).astype(int)[:, None] + np.arange(-1, 3)
  weights = _cubic(center[:, None] - nearest, a=-0.75)
  return _from_neighbours(size, nearest, weights).astype(np.float32)


def cell_matrix(size: int, new_size: int) -> Float[np.ndarray, 'new old']:
  """Maps a line of `size` features to `new_size`.

  Down: each new cell is the mean over the part of the line that it covers,
  and a cell that it covers in part counts in part. At integer ratios this is
  average pooling; at others it stays centred and takes every feature with
  the same total weight, which windows of complete cells would not.
  Up: linear between the centres of the two nearest cells (half-pixel centres,
  the ends repeated), as `torch.nn.functional.interpolate` does it.
  """
  step = size / new_size
  new = np.arange(new_size)[:, None]
  old = np.arange(size)[None]
  if size >= new_size:
    start, end = new * step, (new + 1) * step
    covered = np.minimum(end, old + 1) - np.maximum(start, old)
    return (np.maximum(covered, 0) / step).astype(np.float32)
  center = np.clip((new + 0.5) * step - 0.5, 0, size - 1)
  return np.maximum(1 - np.abs(center - old), 0).astype(np.float32)


def tensorflow_matrix(size: int, new_size: int) -> Float[np.ndarray, 'new old']:
  """Maps `size` values on a line to `new_size` as TensorFlow 1 does.

  Output i reads input position i * size / new_size, in float32: corners are not
  aligned and pixel centres carry no half, unlike every later resize.
  """
  scale = np.float32(size / new_size)
  position = np.arange(new_size, dtype=np.float32) * scale
  low = np.minimum(position.astype(np.int32), size - 1)
  fraction = position - low.astype(np.float32)
  weights = np.stack([1 - fraction, fraction], axis=1)
  return _from_neighbours(size, low[:, None] + np.arange(2), weights)


def resize(
  x: Float[Array, 'B H W C'],
  down: Float[np.ndarray, 'h H'],
  across: Float[np.ndarray, 'w W'],
) -> Float[Array, 'B h w C']:
  """Maps of float32 with one matrix for the rows and one for the columns."""
  # Each output is a sum of a few inputs, some with opposite signs: in the
  # bfloat16 products of a TPU's default, errors would show.
  return jnp.einsum(
    'hH,BHWC,wW->BhwC', down, x, across, precision=jax.lax.Precision.HIGHEST
  )


def resize_bicubic(
  x: Float[Array, 'B H W C'],
  grid: tuple[int, int],
  *,
  antialias: bool = False,
  offset: float = 0.0,
) -> Float[Array, 'B h w C']:
  """Maps of float32 with another number of rows and columns."""
  down, across = (
    bicubic_matrix(n, m, antialias=antialias, offset=offset)
    for n, m in zip(x.shape[1:3], grid)
  )
  return resize(x, down, across)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """The cubic convolution kernel of parameter a, of support 2."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _from_neighbours(
  size: int,
  neighbours: Int[np.ndarray, 'new k'],
  weights: Float[np.ndarray, 'new k'],
) -> Float[np.ndarray, 'new old']:
  """Rows of weights on neighbours; those beyond the ends are the last ones."""
  matrix = np.zeros((len(neighbours), size), weights.dtype)
  rows = np.arange(len(neighbours))[:, None]
  np.add.at(matrix, (rows, np.clip(neighbours, 0, size - 1)), weights)
  return matrix
