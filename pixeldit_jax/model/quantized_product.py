"""Products of which both sides are rounded to 8 bits, by qwix.

'fp8' has the formats of arXiv 2209.05433: float8_e4m3 for activations and
weights, float8_e5m2 for the gradients that come in the backward pass. 'int8'
rounds the forward pass only. Each row of x and each column of the kernel has a
scale, from its largest value at that moment. So an image is the same in any
batch, and nothing is kept from one step to the next.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from pixeldit_jax.errors import MissingPackageError
from pixeldit_jax.typing import Array, Float

QUANTIZED = {
  'fp8': dict(
    weight_qtype=jnp.float8_e4m3fn,
    act_qtype=jnp.float8_e4m3fn,
    bwd_qtype=jnp.float8_e5m2,
  ),
  'int8': dict(weight_qtype=jnp.int8, act_qtype=jnp.int8),
}


def quantized_product(
  form: str, x: Float[Array, '...'], kernel: Float[Array, '...'], axes: int
) -> Float[Array, '...']:
  """`jnp.tensordot(x, kernel, axes)` of rounded operands, in the type of x.

  Args:
    form: 'fp8' or 'int8'.
    x: activations, float32 or bfloat16.
    kernel: of the same type.
    axes: how many of the last axes of x are contracted with the first ones of
      the kernel.

  Raises:
    MissingPackageError: qwix is not installed.
  """
  contracted = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
  dimensions = (contracted, ((), ()))
  product: Any = _Product(form).apply({}, x, kernel, dimensions)
  return product


def check_installed(form: str) -> None:
  """Raises MissingPackageError where qwix is needed and is not there."""
  if form in QUANTIZED:
    _provider(form)


class _Product(linen.Module):
  """A layer without weights, in which qwix looks up its rule.

  Its provider is called by name. `qwix.quantize_model` would replace
  `jax.lax.dot_general` while the network is traced, and what JAX keeps of the
  trace would reach other networks; and it refuses a batch of the shape of a
  kernel: findings/qwix_quantizes_other_models.sh.
  """

  form: str

  def __call__(self, x, kernel, dimensions) -> jax.Array:
    return _provider(self.form).dot_general(x, kernel, dimensions)


@functools.cache
def _provider(form: str) -> Any:
  """What multiplies as `form` says."""
  try:
    import qwix
  except ImportError as error:
    raise MissingPackageError(
      f"model.products={form!r} needs qwix: pip install 'pixeldit_jax[fp8]'"
      ", or set it to 'dtype', which trains and draws from the same weights."
    ) from error
  return qwix.QtProvider([qwix.QtRule(**QUANTIZED[form])])
