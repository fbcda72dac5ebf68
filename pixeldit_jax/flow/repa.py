"""Representation alignment with a frozen teacher (REPA, arXiv 2410.06940).

loss = 1 - mean over patches of cos(projector(student), teacher)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.images.resize import cell_matrix, resize
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear
from pixeldit_jax.typing import Array, Float

PROJECTOR = 'repa_projector'  # its name among all that is trained


class REPAProjector(nnx.Module):
  """Three linear layers, SiLU between, to the teacher's width.

  It is trained with the network and used by the loss only: sampling and the
  EMA have no part of it.
  """

  def __init__(
    self, width: int, teacher_width: int, *, dtype: str, rngs: nnx.Rngs
  ):
    def linear(outputs, axes):
      return Linear(width, outputs, axes, dtype=dtype, rngs=rngs)

    self.first = linear(width, ('embed', 'mlp'))
    self.second = linear(width, ('mlp', 'embed'))
    self.third = linear(teacher_width, ('embed', None))

  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L T']:
    x = jax.nn.silu(self.first(x))
    return self.third(jax.nn.silu(self.second(x)))


def abstract_projector(
  config: ModelConfig, teacher_width: int
) -> REPAProjector:
  """The projector of a network, with shapes in place of weights."""
  return nnx.eval_shape(
    lambda: REPAProjector(
      config.width, teacher_width, dtype=config.dtype, rngs=nnx.Rngs(0)
    )
  )


def match_grid(
  x: Float[Array, 'B L D'], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Array, 'B S D']:
  """Features on one grid of patches to another, in float32, by `cell_matrix`.

  Rows and columns are matched by themselves: one may shrink where the other
  grows.
  """
  x = x.astype(jnp.float32)  # the mean of many features
  if grid == new_grid:
    return x
  B, _, D = x.shape
  down, across = (cell_matrix(n, m) for n, m in zip(grid, new_grid))
  return resize(x.reshape(B, *grid, D), down, across).reshape(B, -1, D)


def repa_loss(
  student: Float[Array, 'B L T'],
  teacher: Float[Array, 'B S T'],
  student_grid: tuple[int, int],
  teacher_grid: tuple[int, int],
) -> Float[Array, 'B']:
  """1 - cosine similarity, mean over the teacher's patches; in [0, 2].

  Args:
    student: features of a block, projected to the teacher's width.
    teacher: features of the clean image; no gradient flows into them.
    student_grid: patches down and across, L in all.
    teacher_grid: patches down and across, S in all.

  Raises:
    UserError: widths that differ, or grids that do not fit the features.
  """
  if student.shape[-1] != teacher.shape[-1]:
    raise UserError(
      f'student features of width {student.shape[-1]} and teacher features of '
      f'width {teacher.shape[-1]}: make REPAProjector with the latter.'
    )
  for name, x, (rows, columns) in (
    ('student', student, student_grid),
    ('teacher', teacher, teacher_grid),
  ):
    if x.shape[1] != rows * columns:
      raise UserError(
        f'{x.shape[1]} {name} features are no grid of {rows} x {columns}: '
        'give one feature for each patch, without class or register tokens.'
      )
  student = _unit(match_grid(student, student_grid, teacher_grid))
  teacher = _unit(jax.lax.stop_gradient(teacher).astype(jnp.float32))
  return 1 - jnp.mean(jnp.sum(student * teacher, -1), -1)


def _unit(x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
  """x / |x| in float32; 0 stays 0, with a finite gradient."""
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
