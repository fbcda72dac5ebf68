"""Muon against the updates of pMF's optimizer, and its place in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax import config as defaults
from pixeldit_jax import sharding
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.muon import scale_by_muon
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import abstract_state, init_state, state_shardings

BETAS = dict(beta1=0.9, beta2=0.95, eps=1e-8)


def update_of(tx):
  def update(gradients, state, weights):
    with jax.numpy_dtype_promotion('standard'):
      return tx.update(gradients, state, weights)

  return jax.jit(update)


def test_updates_are_those_of_the_public_code(golden, assert_close):
  arrays = golden('one_step')
  rate, found = arrays.meta['muon']['learning_rate'], arrays.below('muon')
  names = ('square', 'tall', 'wide', 'vector', 'table', 'conv')
  zeros = {name: jnp.zeros_like(found[f'{name}/grad0']) for name in names}
  tx = scale_by_muon(lambda path, w: (0, int(w.ndim == 2)), **BETAS)
  state, update = tx.init(zeros), update_of(tx)
  for i in range(3):
    gradients = {n: jnp.asarray(found[f'{n}/grad{i}']) for n in names}
    directions, state = update(gradients, state, zeros)
    for name in names:
      assert_close(-rate * directions[name], found[f'{name}/update{i}'])


def test_stacked_and_joined_matrices_are_each_treated_alone(assert_close):
  """Blocks, and q, k and v in one kernel [depth, D, 3, D]."""
  g = jax.random.normal(jax.random.key(0), (2, 8, 3, 8))
  joined = dict(blocks=dict(qkv=dict(kernel=g)))
  alone = {f'{i} {s}': g[i, :, s] for i in range(2) for s in range(3)}
  tx = scale_by_muon(lambda path, w: (w.ndim == 4, 1), **BETAS)
  found, _ = update_of(tx)(joined, tx.init(joined), joined)
  expected, _ = update_of(tx)(alone, tx.init(alone), alone)
  for i in range(2):
    for s in range(3):
      assert_close(
        found['blocks']['qkv']['kernel'][i, :, s], expected[f'{i} {s}']
      )


@pytest.mark.slow
def test_a_step_of_a_run_is_near_orthogonal_and_split_over_devices():
  config = defaults.get_config()
  config.model.update(
    num_classes=10,
    patch_size=4,
    width=32,
    heads=2,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=1,
  )
  config.data.update(resolution=16, batch_size=8)
  config.optimizer.update(
    name='muon', learning_rate=1.0, clip_norm=float('inf')
  )
  context = RunContext.build(config)
  tx, mesh = make_optimizer(context), sharding.make_mesh(dict(data=1, fsdp=-1))
  abstract = abstract_state(
    context.model, tx, state_shardings(context.model, tx, mesh)
  )
  momentum = [
    a for a in jax.tree.leaves(abstract.opt_state) if a.shape == (2, 32, 3, 32)
  ]
  assert momentum
  assert all(not a.sharding.is_fully_replicated for a in momentum)
  state = init_state(context.model, tx, 0)
  keys = iter(jax.random.split(jax.random.key(0), 1000))
  gradients = jax.tree.map(
    lambda a: jax.random.normal(next(keys), a.shape), state.trained
  )
  updates, _ = update_of(tx)(gradients, state.opt_state, state.trained)
  q = updates['patch_blocks']['attn']['qkv']['kernel'][0, :, 0]
  values = np.linalg.svd(np.asarray(q), compute_uv=False)
  assert 0.4 < values.min() and values.max() < 1.4
  bias = updates['patch_blocks']['attn']['proj']['bias']
  # Adam's first, with Nesterov's momentum.
  first = 0.9 * 0.1 / (1 - 0.9**2) + 1
  np.testing.assert_allclose(jnp.abs(bias), first, rtol=1e-3)
