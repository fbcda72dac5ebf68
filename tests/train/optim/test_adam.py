"""Adam against optax's, and what it costs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.adam import clip_by_global_norm, scale_by_adam
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state
from pixeldit_jax.train.step import make_update

SHAPES = dict(kernel=(5, 7), bias=(7,))


def gradients(step, size=1.0):
  rng = np.random.default_rng(step)
  return {
    k: jnp.asarray(size * rng.standard_normal(s), jnp.float32)
    for k, s in SHAPES.items()
  }


@pytest.mark.slow
def test_moments_and_directions_are_those_of_optax():
  ours = optax.chain(clip_by_global_norm(0.5), scale_by_adam(0.8, 0.9, 1e-3))
  theirs = optax.chain(
    optax.clip_by_global_norm(0.5), optax.scale_by_adam(0.8, 0.9, 1e-3)
  )
  state, expected_state = ours.init(gradients(0)), theirs.init(gradients(0))
  same = jax.tree.structure(state) == jax.tree.structure(expected_state)
  assert same  # so that checkpoints of the one are those of the other
  for step, size in enumerate((10.0, 1e-3, 1.0)):  # the second is not clipped
    g = gradients(step, size)
    found, state = ours.update(g, state)
    with jax.numpy_dtype_promotion('standard'):
      expected, expected_state = theirs.update(g, expected_state)
    for a, e in ((found, expected), (state, expected_state)):
      jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5), a, e)


def test_moments_in_bfloat16_are_right_in_the_mean():
  """They fall by a thousandth a step, which is lost to the nearest number."""
  tx = scale_by_adam(0.9, 0.999, 1e-8, 'bfloat16')
  weights = dict(kernel=jnp.zeros((64, 64)))
  state = tx.init(weights)
  update = jax.jit(tx.update)
  first, state = update(dict(kernel=jnp.ones((64, 64))), state)
  np.testing.assert_allclose(first['kernel'], 1, 1e-4)
  for _ in range(300):
    _, state = update(weights, state)
  assert {a.dtype for a in jax.tree.leaves((state.mu, state.nu))} == {
    jnp.dtype('bfloat16')
  }
  mean = float(state.nu['kernel'].astype(jnp.float32).mean())
  assert mean == pytest.approx(0.001 * 0.999**300, rel=0.01)
  kept = update(weights, state, finite=False)[1]
  jax.tree.map(np.testing.assert_array_equal, kept, state)


def test_the_state_is_updated_in_place():
  """Nothing of the size of a weight is copied, or kept beside the state."""
  config = get_config()
  make_debug(config)
  config.model.width = 256
  context = RunContext.build(config)
  tx = make_optimizer(context)
  state = jax.eval_shape(lambda: init_state(context.model, tx, 0))
  update = jax.jit(
    lambda state, g: make_update(config, tx)(
      state, dict(loss=jnp.float32(1)), g
    ),
    donate_argnums=0,
  )
  compiled = update.lower(state, state.weights).compile()
  large = [a for a in jax.tree.leaves(state.weights) if a.size >= 2**16]
  assert len(large) > 2
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 4 * min(a.size for a in large)
  shapes = {f'f32[{",".join(map(str, a.shape))}]' for a in large}
  copies = re.findall(r'= (f32\[[\d,]*\])\S* copy\(', compiled.as_text())
  assert not shapes & set(copies)
