"""Rotary positions: of patches in 2-D (PixelDiT, section 3.2), of text in 1-D.

In PixelDiT the grid always spans 0..16 in both directions, whatever the
resolution; of the K/2 channel pairs of a head, even ones turn with the column,
odd ones with the row. JiT counts rows and columns, and the first half of the
pairs turns with the row; PixelFlow's with the column. A pair is (i, i + K/2),
in two contiguous halves, where the releases pair neighbours (2i, 2i+1). The
order of channels inside a head changes no dot product; `convert` permutes the
weights.
"""

import jax.numpy as jnp

from pixeldit_jax.typing import Array, Float

SPAN = 16.0
THETA = 10000.0

# Cosines and sines of the angle of each token and channel pair.
Rotary = tuple[Float[Array, '_ R'], Float[Array, '_ R']]


def rotary_2d(
  rows: int, columns: int, head_size: int, order: str = 'span'
) -> Rotary:
  """Cosines and sines of the angles of a grid of tokens, row by row.

  Args:
    rows, columns: the grid, L = rows * columns.
    head_size: K, a multiple of 4.
    order: 'span', 'row_column' or 'column_row', see `ModelConfig.rotary`.
  """
  k = jnp.arange(head_size // 4, dtype=jnp.float32)
  frequencies = THETA ** (-4.0 * k / head_size)
  if order == 'span':
    x = jnp.tile(jnp.linspace(0.0, SPAN, columns), rows)
    y = jnp.repeat(jnp.linspace(0.0, SPAN, rows), columns)
    angles = jnp.stack([x, y], 1)[:, None, :] * frequencies[None, :, None]
  else:
    x = jnp.tile(jnp.arange(columns, dtype=jnp.float32), rows)
    y = jnp.repeat(jnp.arange(rows, dtype=jnp.float32), columns)
    first = [y, x] if order == 'row_column' else [x, y]
    angles = jnp.stack(first, 1)[:, :, None] * frequencies
  angles = angles.reshape(rows * columns, head_size // 2)
  return jnp.cos(angles), jnp.sin(angles)


def unrotated_first(rotary: Rotary, count: int) -> Rotary:
  """The tables with so many tokens in front that are not turned."""
  cos, sin = (
    jnp.pad(table, ((count, 0), (0, 0)), constant_values=value)
    for table, value in zip(rotary, (1, 0))
  )
  return cos, sin


def rotary_1d(length: int, head_size: int) -> Rotary:
  """Cosines and sines of the angles of a row of tokens, at 0, 1, 2 and on."""
  k = jnp.arange(head_size // 2, dtype=jnp.float32)
  frequencies = THETA ** (-2.0 * k / head_size)
  angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies
  return jnp.cos(angles), jnp.sin(angles)


def rotate(
  x: Float[Array, 'B L N K'], rotary: Rotary
) -> Float[Array, 'B L N K']:
  """Turns each channel pair of each token by its angle, in float32."""
  cos, sin = (table[:, None] for table in rotary)
  a, b = (half.astype(jnp.float32) for half in jnp.split(x, 2, axis=-1))
  rotated = (
    (a * cos - b * sin).astype(x.dtype),
    (a * sin + b * cos).astype(x.dtype),
  )
  return jnp.concatenate(rotated, -1)
