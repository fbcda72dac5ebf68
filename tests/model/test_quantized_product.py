"""Products of 8 bits: what is rounded, by how much, and what is not."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.errors import MissingPackageError
from pixeldit_jax.model import quantized_product as module
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.layers import Linear
from pixeldit_jax.model.pixeldit import abstract_model, make_model, weights_of
from pixeldit_jax.model.quantized_product import quantized_product

pytest.importorskip('qwix')
pytestmark = pytest.mark.usefixtures('standard_promotion')

SMALL = dict(
  num_classes=10,
  patch_size=4,
  width=16,
  heads=2,
  patch_depth=2,
  pixel_width=8,
  pixel_depth=1,
)


def operands(dtype, inputs=(4, 8), outputs=(3, 5)):
  rng = np.random.default_rng(0)
  shapes = (2, 6, *inputs), (*inputs, *outputs)
  return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def types_of_products(function, *arguments) -> set[tuple[str, str]]:
  """The types of both sides of all products of a program."""
  text = jax.jit(function).lower(*arguments).as_text()
  found = re.findall(r'dot_general .*: \(tensor<(.*)>, tensor<(.*)>\)', text)
  return {(a.rpartition('x')[2], b.rpartition('x')[2]) for a, b in found}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  'form, forward, backward, errors',
  [
    # A float8_e4m3 has 3 bits after the first, so it errs by up to 1/16; a
    # float8_e5m2, by up to 1/8.
    ('fp8', ('f8E4M3FN', 'f8E4M3FN'), ('f8E5M2', 'f8E4M3FN'), (0.05, 0.08)),
    ('int8', ('i8', 'i8'), None, (0.015, 0.006)),
  ],
)
def test_both_sides_are_rounded(form, forward, backward, errors, dtype):
  x, kernel = operands(dtype)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 3, 5)))

  def passes(product):
    def total(x, kernel):
      y = product(x, kernel, 2)
      return jnp.sum(y.astype(weights.dtype) * weights), y

    gradients, y = jax.grad(total, (0, 1), has_aux=True)(x, kernel)
    return y, *gradients

  rounded = functools.partial(quantized_product, form)
  found = jax.jit(lambda: passes(rounded))()
  expected = jax.jit(lambda: passes(jnp.tensordot))()
  for a, e, error in zip(found, expected, (errors[0], errors[1], errors[1])):
    assert a.dtype == e.dtype and a.shape == e.shape
    a, e = np.float32(a), np.float32(e)
    assert np.linalg.norm(a - e) < error * np.linalg.norm(e)
  assert np.abs(np.float32(found[0]) - np.float32(expected[0])).max() > 0
  plain = {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
  types = types_of_products(lambda: passes(rounded))
  assert types == {forward, backward or (plain, plain)}


@pytest.mark.parametrize('form', ['fp8', 'int8'])
def test_an_image_is_the_same_in_any_batch(form):
  x, kernel = operands('float32')
  product = jax.jit(lambda x: quantized_product(form, x, kernel, 2))
  np.testing.assert_array_equal(product(x)[:1], product(x[:1]))
  np.testing.assert_array_equal(product(0 * x), 0 * product(x))


def test_a_batch_may_have_the_shape_of_the_kernel():
  x = jnp.eye(8)
  found = quantized_product('fp8', x, x, 1)
  np.testing.assert_allclose(found, x, rtol=1e-6)


def test_other_products_of_the_process_stay_exact():
  x, kernel = jnp.ones((4, 16)), jnp.ones((16, 32))
  jax.jit(lambda: quantized_product('fp8', x, kernel, 1))()
  assert types_of_products(lambda: x @ kernel) == {('f32', 'f32')}


@pytest.mark.parametrize(
  'more',
  [
    {},
    dict(num_classes=0, text_width=16),
    dict(decoder='deco'),
    dict(decoder='nerf_field'),
  ],
  ids=['class', 'text', 'deco', 'nerf_field'],
)
def test_the_blocks_are_rounded_but_not_their_modulation(more):
  fields = SMALL | more
  model = abstract_model(ModelConfig(**fields, products='fp8'))
  rounded, exact = set(), set()
  for path, layer in nnx.iter_graph(model):
    if isinstance(layer, Linear):
      kind = rounded if layer.products == 'fp8' else exact
      kind.add('/'.join(map(str, path)))
  assert all(re.match('[a-z]+_blocks/', name) for name in rounded)
  assert all(
    name.endswith('/adaln')
    for name in exact
    if re.match('[a-z]+_blocks/', name)
  )
  assert rounded and exact
  plain = weights_of(abstract_model(ModelConfig(**fields)))
  shapes = jax.tree.map(lambda a: (a.shape, a.dtype), weights_of(model))
  assert shapes == jax.tree.map(lambda a: (a.shape, a.dtype), plain)


def test_the_weights_start_the_same():
  found, expected = (
    weights_of(make_model(ModelConfig(**SMALL, products=q), nnx.Rngs(0)))
    for q in ('fp8', 'dtype')
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_qwix_it_is_refused_before_anything_is_built(monkeypatch):
  config = get_config()
  make_debug(config)
  monkeypatch.setitem(sys.modules, 'qwix', None)
  module._provider.cache_clear()
  validate(config)
  config.model.products = 'fp8'
  with pytest.raises(MissingPackageError) as error:
    validate(config)
  text = str(error.value)
  assert "model.products='fp8' needs qwix: pip install" in text
  assert '\n' not in text
