"""CAME against the paper's formula in NumPy, and its place in a run."""

import jax
import numpy as np
import pytest

from pixeldit_jax import config as defaults
from pixeldit_jax import settings, sharding
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.optim.came import scale_by_came
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import abstract_state, state_shardings

BETAS = dict(beta1=0.8, beta2=0.9, beta3=0.95)


def matrix_axes(path, weight):
  return {'blocks': (1, 2), 'kernel': (0, 1), 'bias': (0, 0)}[path[0].key]


def came(gradients, clip):
  """Algorithm 2 for one matrix or vector, in float64; the last direction."""
  m = R = C = v = r = c = 0.0
  for g in gradients:
    square = g**2 + 1e-30
    if g.ndim == 1:
      v = 0.9 * v + 0.1 * square
    else:
      r = 0.9 * r + 0.1 * square.mean(1)
      c = 0.9 * c + 0.1 * square.mean(0)
      v = np.outer(r, c) / r.mean()
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt((u**2).mean()) / clip)
    m = 0.8 * m + 0.2 * u
    if g.ndim == 1:
      continue
    error = (u - m) ** 2 + 1e-16
    R = 0.95 * R + 0.05 * error.mean(1)
    C = 0.95 * C + 0.05 * error.mean(0)
  return m if g.ndim == 1 else m / np.sqrt(np.outer(R, C) / R.mean())


def test_directions_are_the_papers():
  clip = 0.5
  shapes = dict(blocks=(2, 3, 2, 5), kernel=(4, 6), bias=(7,))
  random = np.random.default_rng(0)
  gradients = [
    {k: random.normal(0, 10.0**-i, s) for k, s in shapes.items()}
    for i in range(4)
  ]
  tx = scale_by_came(matrix_axes, clip=clip, **BETAS)
  state = tx.init(jax.tree.map(np.float32, gradients[0]))
  update = jax.jit(tx.update)
  for g in gradients:
    found, state = update(jax.tree.map(np.float32, g), state)
  for name in ('kernel', 'bias'):
    expected = came([g[name] for g in gradients], clip)
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
  for i in range(2):
    matrices = [g['blocks'][i].reshape(6, 5) for g in gradients]
    expected = came(matrices, clip).reshape(3, 2, 5)
    np.testing.assert_allclose(
      found['blocks'][i], expected, rtol=1e-4, atol=1e-5
    )


def test_joined_matrices_have_factors_of_their_own():
  """As if each of the two, in each of the layers, were a weight alone."""
  random = np.random.default_rng(1)
  shape = (2, 4, 2, 5)  # layers, inputs, matrices, outputs
  gradients = [
    random.normal(size=shape) * [[1], [100]] * 10.0**-i for i in range(4)
  ]
  tx = scale_by_came(lambda *_: (1, 1), lambda *_: True, clip=0.5, **BETAS)
  state = tx.init(np.float32(gradients[0]))
  assert state.rows.shape == (4, 4) and state.columns.shape == (4, 5)
  for g in gradients:
    found, state = jax.jit(tx.update)(np.float32(g), state)
  for i in range(2):
    for j in range(2):
      expected = came([g[i, :, j] for g in gradients], 0.5)
      np.testing.assert_allclose(found[i, :, j], expected, rtol=1e-4, atol=1e-5)
  assert state.mean.shape == shape


def test_gates_are_split_where_the_recipe_asks_and_older_runs_keep_theirs():
  config = defaults.get_config()
  config.model.update(patch_depth=2, pixel_depth=1)
  config.optimizer.name = 'came'
  assert not config.optimizer.split_gates  # what runs without the key did
  rows = {}
  for split in (False, True):
    config.optimizer.split_gates = split
    context = RunContext.build(config)
    weights = weights_of(abstract_model(context.model))
    state = jax.eval_shape(make_optimizer(context).init, weights)
    (came_state,) = [
      s
      for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, 'rows'))
      if hasattr(s, 'rows')
    ]
    rows[split] = jax.tree.map(lambda a: a.shape, came_state.rows)
  width = config.model.width
  flat = {k: settings.flatten(v) for k, v in rows.items()}
  different = {k for k in flat[True] if flat[True][k] != flat[False][k]}
  assert different == {'patch_blocks.mlp.up.kernel'}
  assert flat[True]['patch_blocks.mlp.up.kernel'] == (4, width)


def test_a_run_keeps_half_of_adams_moments_and_splits_the_large():
  config = defaults.get_config()
  config.model.update(patch_depth=2, pixel_depth=1)
  sizes = {}
  mesh = sharding.make_mesh(dict(data=1, fsdp=-1))
  model = model_config(config)
  for name in ('adamw', 'came'):
    config.optimizer.name = name
    tx = make_optimizer(RunContext.build(config))
    state = abstract_state(model, tx, state_shardings(model, tx, mesh))
    sizes[name] = sum(a.size for a in jax.tree.leaves(state.opt_state))
    large = [a for a in jax.tree.leaves(state.opt_state) if a.size > 1e6]
    assert all(not a.sharding.is_fully_replicated for a in large)
  assert 0.49 < sizes['came'] / sizes['adamw'] < 0.52


def test_an_unknown_optimizer_is_refused():
  config = defaults.get_config()
  config.optimizer.name = 'lion'
  with pytest.raises(ValueError, match="optimizer.name='lion'.*came"):
    validate(config)
