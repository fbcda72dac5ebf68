"""Products in bfloat16: values, gradients, and what reaches XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model import bfloat16_product as module
from pixeldit_jax.model.bfloat16_product import bfloat16_product
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear, linears_of_blocks
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model

TINY = ModelConfig(
  num_classes=10,
  patch_size=4,
  width=32,
  heads=2,
  patch_depth=2,
  pixel_width=8,
  pixel_depth=2,
)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def rounded(x):
  return np.asarray(x.astype(jnp.bfloat16), np.float64)


def both(product, axes):
  """f(x, kernel, dy) -> the product and its two gradients."""

  def run(x, kernel, dy):
    y, backward = jax.vjp(lambda a, b: product(a, b, axes), x, kernel)
    return y, *backward(dy)

  return run


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize(
  'inputs, outputs', [((16,), (8,)), ((4, 6), (8,)), ((16,), (3, 8))]
)
def test_only_the_three_operands_are_rounded(
  inputs, outputs, platform, monkeypatch
):
  monkeypatch.setattr(module, 'platform', lambda: platform)
  x, kernel = normal(0, 2, 3, *inputs), normal(1, *inputs, *outputs)
  dy, axes = normal(2, 2, 3, *outputs), len(inputs)
  found = jax.jit(both(bfloat16_product, axes))(x, kernel, dy)
  assert all(a.dtype == jnp.float32 for a in found)
  x, kernel, dy = (rounded(a) for a in (x, kernel, dy))
  last = range(2, dy.ndim), range(axes, kernel.ndim)
  expected = (
    np.tensordot(x, kernel, axes),
    np.tensordot(dy, kernel, last),
    np.tensordot(x, dy, ((0, 1), (0, 1))),
  )
  for a, e in zip(found, expected):
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_every_product_is_of_bfloat16_with_sums_in_float32():
  x, kernel, dy = normal(0, 2, 3, 8), normal(1, 8, 4), normal(2, 2, 3, 4)
  lowered = jax.jit(both(bfloat16_product, 1)).lower(x, kernel, dy).as_text()
  products = [line for line in lowered.split('\n') if 'dot_general' in line]
  assert len(products) == 3
  for line in products:
    operands, result = line.split(' : ')[1].split(' -> ')
    assert operands.count('xbf16>') == 2 and 'xf32>' in result


def test_results_may_be_transposed():
  x, kernel, dy = normal(0, 2, 3, 8), normal(1, 8, 4), normal(2, 2, 3, 4)
  plain = both(bfloat16_product, 1)
  found = jax.jit(lambda *a: [b.T for b in plain(*a)])(x, kernel, dy)
  for a, e in zip(found, plain(x, kernel, dy)):
    np.testing.assert_allclose(a.T, e, rtol=1e-5, atol=1e-5)


def test_the_setting_reaches_the_linear_layers_of_all_blocks_only():
  config = dataclasses.replace(TINY, products='bfloat16')
  model = abstract_model(config)
  marked = [
    layer
    for _, layer in nnx.iter_graph(model)
    if isinstance(layer, Linear) and layer.products == 'bfloat16'
  ]
  assert len(marked) == len(list(linears_of_blocks(model))) > 8
  plain = linears_of_blocks(abstract_model(TINY))
  assert all(layer.products == 'dtype' for _, layer in plain)


def test_gradients_of_a_network_are_near_those_in_float32(assert_close):
  x, t, y = normal(0, 2, 8, 8, 3), jnp.array([0.2, 0.7]), jnp.array([3, 10])

  def gradients(products):
    config = dataclasses.replace(TINY, products=products, zero_modulation=False)

    @nnx.jit
    def run():
      model = PixelDiT(config, rngs=nnx.Rngs(0))
      model.output.proj.kernel[...] += 0.1
      return nnx.grad(lambda model: jnp.mean(model(x, t, y) ** 2))(model)

    return jax.tree.leaves(run())

  exact, rough = gradients('dtype'), gradients('bfloat16')
  assert all(a.dtype == jnp.float32 for a in rough)
  norm = max(float(jnp.abs(a).max()) for a in exact)
  off = [float(jnp.abs(a - b).max()) for a, b in zip(exact, rough)]
  assert 0 < max(off) < 0.02 * norm


def test_average_velocities_are_refused():
  with pytest.raises(UserError, match="use 'dtype'"):
    dataclasses.replace(TINY, products='bfloat16', mean_flow='added')
