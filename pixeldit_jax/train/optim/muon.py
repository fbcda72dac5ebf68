"""Muon for matrices, Adam with Nesterov's momentum for the rest, of optax.

As pMF is trained (arXiv 2601.22158): the momentum of a matrix is brought near
an orthogonal one, and scaled by sqrt(max(1, outputs / inputs)).
"""

from typing import Any

import jax
import optax
from optax import contrib

from pixeldit_jax.train.optim.came import MatrixAxes

# Layers of several matrices, the first of their output axes: q, k and v, the
# two inputs of SwiGLU, vectors of modulation.
SEVERAL = ('qkv', 'up', 'adaln')
ADAM_PARTS = ('patch_embed',)  # a convolution in pMF


def scale_by_muon(
  matrix_axes: MatrixAxes, *, beta1: float, beta2: float, eps: float
) -> optax.GradientTransformation:
  """Gradients to Muon's directions.

  Args:
    matrix_axes: which axes of a weight are inputs; without any it is Adam's.
    beta1, beta2, eps: of Adam; Muon has its own.
  """

  def dimensions(weights):
    return jax.tree_util.tree_map_with_path(
      lambda path, weight: _dimensions(path, weight, matrix_axes(path, weight)),
      weights,
    )

  rule = contrib.muon(
    1.0,
    eps=eps,
    adam_b1=beta1,
    adam_b2=beta2,
    muon_weight_dimension_numbers=dimensions,
  )
  return optax.chain(rule, optax.scale(-1.0))  # it descends by itself


def _dimensions(path, weight, axes) -> Any:
  """The axes of inputs and outputs; None leaves a weight to Adam."""
  first, inputs = axes
  names = [key.key for key in path]
  if not inputs or names[0] in ADAM_PARTS:
    return None
  outputs = list(range(first + inputs, weight.ndim))
  if len(outputs) > 1 and set(names) & set(SEVERAL):
    outputs = outputs[1:]
  return contrib.MuonDimensionNumbers(
    tuple(range(first, first + inputs)), tuple(outputs)
  )
