"""Products in bfloat16 of float32 arrays, in both directions.

A CPU with AVX512-BF16 multiplies bfloat16 at twice the rate of float32. XLA
does so only if both operands are bfloat16 and the result is float32. It ignores
the precision 'BF16_BF16_F32', and JAX's own gradient of such a product
multiplies a float32 with a bfloat16, which XLA does in float32.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pixeldit_jax.sharding import platform
from pixeldit_jax.typing import Array, Float

_Rounded = tuple[jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def bfloat16_product(
  x: Float[Array, '...'], kernel: Float[Array, '...'], axes: int
) -> Float[Array, '...']:
  """`jnp.tensordot(x, kernel, axes)` of what bfloat16 keeps of x and kernel.

  Sums are in float32, and so are those of the backward pass, for which the
  gradient of the result is rounded too. There is no forward-mode derivative.

  Args:
    x: its last axes are contracted.
    kernel: of the same type as x; its first axes are contracted.
    axes: how many.

  Returns:
    Of the type of x.
  """
  return _forward(x, kernel, axes)[0]


def _forward(x, kernel, axes: int) -> tuple[jax.Array, _Rounded]:
  rounded = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  y = _contract(*rounded, range(x.ndim - axes, x.ndim), range(axes))
  return y.astype(x.dtype), rounded


def _backward(axes: int, rounded: _Rounded, dy) -> _Rounded:
  x, kernel = rounded
  dtype, dy = dy.dtype, dy.astype(jnp.bfloat16)
  leading = range(x.ndim - axes)
  outputs = range(len(leading), dy.ndim)
  dx = _contract(dy, kernel, outputs, range(axes, kernel.ndim))
  dkernel = _contract(x, dy, leading, leading)
  return dx.astype(dtype), dkernel.astype(dtype)


bfloat16_product.defvjp(_forward, _backward)


def _contract(
  a: jax.Array, b: jax.Array, of_a: Sequence[int], of_b: Sequence[int]
) -> jax.Array:
  """The sum of products over these axes, in float32."""
  c = jax.lax.dot_general(
    a,
    b,
    ((tuple(of_a), tuple(of_b)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  if platform() != 'cpu':
    return c
  # A transposition that follows would become one with the product, which XLA
  # then cannot run: findings/xla_cpu_transposed_bfloat16_product_fails.sh
  return jax.lax.optimization_barrier(c)
