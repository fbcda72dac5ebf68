"""Linear layers: the same product on every platform, and its gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.model import layers
from pixeldit_jax.model.layers import Linear
from pixeldit_jax.model.pixeldit import weights_of


def make(inputs, outputs, call=Linear.__call__):
  """f(weights, x, dy) -> y and the gradients of both, with its arguments."""
  rank = len(inputs) + len(outputs)
  layer = Linear(
    inputs, outputs, (None,) * rank, dtype='float32', rngs=nnx.Rngs(0)
  )
  graphdef, weights = nnx.graphdef(layer), weights_of(layer)
  x, dy = (
    jax.random.normal(jax.random.key(i), (2, 3, *axes))
    for i, axes in enumerate((inputs, outputs))
  )

  def run(weights, x, dy):
    def apply(weights, x):
      return call(nnx.merge(graphdef, weights), x)

    y, backward = jax.vjp(apply, weights, x)
    return y, backward(dy)

  return run, (weights, x, dy)


@pytest.mark.parametrize(
  'inputs, outputs', [((8,), (6, 4, 2)), ((4, 2), (8,)), ((4, 2), (3, 5))]
)
def test_products_of_matrices_are_those_of_tensors(
  inputs, outputs, monkeypatch
):
  run, arguments = make(inputs, outputs)
  found = run(*arguments)
  assert found[0].shape == (2, 3, *outputs)
  monkeypatch.setattr(layers, 'platform', lambda: 'tpu')
  expected = run(*arguments)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )


def test_the_backward_pass_on_cpu_moves_no_kernel():
  run, arguments = make((64,), (3, 8, 16))
  text = jax.jit(run).lower(*arguments).compile().as_text()
  size = jnp.size(arguments[0]['kernel'])
  moved = re.findall(r'= f32\[([\d,]+)\]\S* (?:transpose|copy)\(', text)
  assert all(np.prod([int(n) for n in m.split(',')]) < size for m in moved)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('inputs', [(8,), (4, 2)])
def test_each_output_by_itself_is_that_of_all(inputs, platform, monkeypatch):
  monkeypatch.setattr(layers, 'platform', lambda: platform)
  together, arguments = make(inputs, (6, 4, 2))
  each, _ = make(
    inputs, (6, 4, 2), lambda layer, x: jnp.stack(layer.split_outputs(x), 2)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    each(*arguments),
    together(*arguments),
  )
