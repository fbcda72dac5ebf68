"""CAME: confidence-guided memory-efficient optimization (arXiv 2307.02047).

Averages over the rows and columns of a matrix replace the second moment of its
gradient g, as in Adafactor, and once more that of the instability of its
updates (algorithm 2; e1 and e2 prevent a division by zero):

  v = outer(rows, columns) / mean(rows), of the averages of g^2 + e1
  u = g / sqrt(v), divided by its root mean square where that is above `clip`
  m = average of u
  s = as v, of the averages of (u - m)^2 + e2
  direction = m / sqrt(s)

A vector keeps its complete v, and its direction is m.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pixeldit_jax.typing import Array, Float, PyTree

E1, E2 = 1e-30, 1e-16

# f(path, weight) -> (axes of stacked blocks, axes of inputs after those); the
# other axes are outputs. A vector has no inputs.
MatrixAxes = Callable[[tuple, Any], tuple[int, int]]
# f(path, weight) -> whether the first axis of outputs counts matrices.
SeveralMatrices = Callable[[tuple, Any], bool]


class CameState(NamedTuple):
  """Trees of the weights: B blocks, each of L inputs and S outputs.

  Attributes:
    mean: m, shaped as the weights.
    rows: of g^2, [B, L]; all of a vector's v.
    columns: of g^2, [B, S]; of a vector [1], as all that follow.
    error_rows: of (u - m)^2, [B, L].
    error_columns: of (u - m)^2, [B, S].
  """

  mean: PyTree
  rows: PyTree
  columns: PyTree
  error_rows: PyTree
  error_columns: PyTree


def scale_by_came(
  matrix_axes: MatrixAxes,
  several: SeveralMatrices = lambda path, weight: False,
  *,
  beta1: float = 0.9,
  beta2: float = 0.999,
  beta3: float = 0.9999,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """Gradients to CAME's directions.

  Args:
    matrix_axes: which axes of each weight form a matrix.
    several: where a weight is several matrices, each has its own factors.
    beta1, beta2, beta3: decay of the averages for m, v and s.
    clip: the largest root mean square of u, for each block.
  """

  def init(weights):
    def tree(i):  # each is of the form of `weights`, whatever that is
      def one(path, weight):
        axes = matrix_axes(path, weight)
        return _zeros(weight, *axes, several(path, weight))[i]

      return jax.tree_util.tree_map_with_path(one, weights)

    return CameState(*map(tree, range(len(CameState._fields))))

  def one(path, g, m, *moments):
    stacked, inputs = matrix_axes(path, g)
    g = g.astype(jnp.float32)
    if not inputs:
      v = beta2 * moments[0] + (1 - beta2) * (g**2 + E1)
      u = _clipped(g * jax.lax.rsqrt(v), stacked, clip)
      m = beta1 * m + (1 - beta1) * u
      return m, m, v, *moments[1:]
    if apart := several(path, g):
      g, m = (jnp.moveaxis(x, stacked + inputs, stacked) for x in (g, m))
      stacked += 1
    shape = _matrix(g.shape, stacked, inputs)
    second = _averages(g.reshape(shape) ** 2 + E1, moments[:2], beta2)
    u = (g.reshape(shape) * _inverse_root(*second)).reshape(g.shape)
    u = _clipped(u, stacked, clip)
    m = beta1 * m + (1 - beta1) * u
    error = ((u - m) ** 2 + E2).reshape(shape)
    error = _averages(error, moments[2:], beta3)
    direction = (m.reshape(shape) * _inverse_root(*error)).reshape(g.shape)
    if apart:
      direction, m = (_moved_back(x, stacked, inputs) for x in (direction, m))
    return direction, m, *second, *error

  def update(gradients, state, weights=None):
    del weights
    found = jax.tree_util.tree_map_with_path(one, gradients, *state)
    inner = jax.tree.structure((0,) * (1 + len(state)))
    outer = jax.tree.structure(gradients)
    directions, *state = jax.tree.transpose(outer, inner, found)
    return directions, CameState(*state)

  return optax.GradientTransformation(init, update)


def _moved_back(x, stacked: int, inputs: int):
  return jnp.moveaxis(x, stacked - 1, stacked - 1 + inputs)


def _matrix(shape: tuple[int, ...], stacked: int, inputs: int):
  """(blocks, inputs, outputs) of a weight's shape."""
  end = stacked + inputs
  parts = shape[:stacked], shape[stacked:end], shape[end:]
  return tuple(math.prod(part) for part in parts)


def _zeros(
  weight, stacked: int, inputs: int, several: bool
) -> tuple[jax.Array, ...]:
  """The five averages of a new run."""
  none = jnp.zeros(1, jnp.float32)
  full = jnp.zeros(weight.shape, jnp.float32)
  if not inputs:
    return full, full, none, none, none
  B, L, S = _matrix(weight.shape, stacked, inputs)
  if several:
    count = weight.shape[stacked + inputs]
    B, S = B * count, S // count
  rows, columns = jnp.zeros((B, L), jnp.float32), jnp.zeros((B, S), jnp.float32)
  return full, rows, columns, rows, columns


def _averages(x_BLS, moments, beta: float):
  """Moving averages of the means over columns [B, L] and rows [B, S]."""
  rows_BL, columns_BS = moments
  rows_BL = beta * rows_BL + (1 - beta) * x_BLS.mean(2)
  columns_BS = beta * columns_BS + (1 - beta) * x_BLS.mean(1)
  return rows_BL, columns_BS


def _inverse_root(
  rows_BL: Float[Array, 'B L'], columns_BS: Float[Array, 'B S']
) -> Float[Array, 'B L S']:
  """1 / sqrt(outer(rows, columns) / mean(rows)), without its tiny products."""
  rows_BL = rows_BL / rows_BL.mean(1, keepdims=True)
  return jax.lax.rsqrt(rows_BL)[:, :, None] * jax.lax.rsqrt(columns_BS)[:, None]


def _clipped(u, stacked: int, clip: float):
  """u, with a root mean square of at most `clip` in each block."""
  axes = tuple(range(stacked, u.ndim))
  rms = jnp.sqrt(jnp.mean(u**2, axes, keepdims=True))
  return u / jnp.maximum(1, rms / clip)
