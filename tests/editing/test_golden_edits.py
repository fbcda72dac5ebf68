"""FlowEdit, SDEdit and inpainting against whole public and float64 runs."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.editing.flow_edit import (
  edit_direction,
  flow_edit,
  flow_edit_steps,
)
from pixeldit_jax.editing.inpaint import inpaint
from pixeldit_jax.editing.sd_edit import sd_edit
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide

FILE = 'rivals/flowedit'
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / f'{FILE}.npz'
SOLVERS = {'euler': solvers.euler, 'ab2': solvers.flow_dpm}


@pytest.fixture
def arrays(golden):
  return golden(FILE)


def runs(kind):
  """Whatever runs the file has: the tests follow its `meta`."""
  with np.load(GOLDEN) as file:
    return json.loads(bytes(file['meta']))[f'{kind}_runs']


def images(array):
  """[..., C, H, W] to [..., H, W, C]."""
  return jnp.moveaxis(jnp.asarray(array), -3, -1)


def field(arrays, labels, shape):
  """The velocity of Gaussian classes: the mean of data - noise given x at t."""
  mu, cov = (arrays[f'w/{k}'].astype(np.float64) for k in ('mu', 'cov'))
  eigen, basis = np.linalg.eigh(cov)
  labels = np.broadcast_to(np.asarray(labels), (shape[0],))
  mu, eigen, basis = (
    jnp.asarray(a[labels], jnp.float32) for a in (mu, eigen, basis)
  )

  def velocity(x, t):
    flat = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x),))[:, None]
    ratio = (t * eigen - (1 - t)) / (t**2 * eigen + (1 - t) ** 2)
    inside = jnp.einsum('bij,bi->bj', basis, flat - t * mu)
    out = mu + jnp.einsum('bij,bj->bi', basis, ratio * inside)
    B, H, W, C = x.shape
    return jnp.moveaxis(out.reshape(B, C, H, W), 1, -1)

  return velocity


def guided(arrays, labels, scale, shape):
  null = arrays.meta['num_classes']
  return guide(
    field(arrays, labels, shape),
    field(arrays, null, shape),
    scale,
    (0.0, 1.0),
    'zero',
  )


def draws(noise):
  noise = images(noise)
  return lambda number: noise[number]


def test_the_field_is_that_of_the_file(arrays, assert_close):
  x = images(arrays['field/x'])
  u = field(arrays, arrays['field/y'], x.shape)(x, arrays['field/t'])
  assert_close(u, images(arrays['field/u']))


@pytest.mark.slow
@pytest.mark.parametrize('run', runs('flowedit'), ids=lambda r: r['name'])
def test_flow_edit_is_the_public_code(arrays, assert_close, run):
  found = arrays.below(run['name'])
  x = images(found['x_src'])
  velocities = (
    guided(arrays, run['src'], run['src_guidance'], x.shape),
    guided(arrays, run['tar'], run['tar_guidance'], x.shape),
  )
  times = (1 - found['sigmas'].astype(np.float64)).astype(np.float32)
  noise, average = draws(found['noise']), run['n_avg']
  first, turn = len(times) - 1 - run['n_max'], len(times) - 1 - run['n_min']
  np.testing.assert_allclose(1 - found['t'][:, 0], times[first:-1], atol=1e-6)

  states = flow_edit_steps(
    velocities, x, times[first : turn + 1], noise, average, solvers.all_states
  )
  assert_close(states, images(found['zt_edit']))
  before = x
  for i, z in enumerate(images(found['zt_edit'])):
    got = edit_direction(
      velocities,
      x,
      before,
      jnp.float32(times[first + i]),
      noise,
      i * average,
      average,
    )
    assert_close(-got.mean, images(found['v_delta_avg'][i]))
    assert_close(got.source, images(found['zt_src_last'][i]))
    assert_close(got.target, images(found['zt_tar_last'][i]))
    before = z

  options = dict(steps=run['n_max'], free_steps=run['n_min'], average=average)
  edit = jax.jit(lambda x: flow_edit(velocities, x, times, noise, **options))
  assert_close(edit(x), images(found['out']))
  if run['n_min']:
    whole = lambda *args: solvers.euler(*args, solvers.all_states)  # noqa: E731
    free = flow_edit(velocities, x, times, noise, solver=whole, **options)
    assert_close(free, images(found['xt_tar']))


@pytest.mark.parametrize('run', runs('sdedit'), ids=lambda r: r['name'])
def test_sd_edit_is_the_formula(arrays, assert_close, run):
  found = arrays.below(run['name'])
  x, noise = images(found['x_src']), images(found['eps'])
  times = time_grid(run['N'], run['shift'])
  np.testing.assert_allclose(times, found['t'], atol=1e-6)
  states = sd_edit(
    guided(arrays, run['y'], run['w'], x.shape),
    x,
    noise,
    times,
    steps=run['n_start'],
    solver=SOLVERS[run['solver']],
    integrate=solvers.all_states,
  )
  assert_close(states, images(found['traj'])[1:])
  assert_close(states[-1], images(found['out']))


@pytest.mark.parametrize('run', runs('inpaint'), ids=lambda r: r['name'])
def test_inpainting_is_the_formula(arrays, assert_close, run):
  found = arrays.below(run['name'])
  x, noise = images(found['x_known']), images(found['eps0'])
  mask = images(found['mask'])
  times = time_grid(run['N'], run['shift'])
  np.testing.assert_allclose(times, found['t'], atol=1e-6)

  def states(integrate):
    return inpaint(
      guided(arrays, run['y'], run['w'], x.shape),
      x,
      mask,
      noise,
      times,
      steps=run['n_start'],
      repeats=run['resample'],
      merge_noise=(lambda number: noise)
      if run['fixed_noise']
      else draws(found['merge_noise']),
      back_noise=draws(found['back_noise']) if run['resample'] > 1 else None,
      integrate=integrate,
    )

  assert_close(states(solvers.all_states), images(found['traj'])[1:])
  out = jax.jit(lambda: states(solvers.last_state))()
  assert_close(out, images(found['out']))
  known = np.broadcast_to(mask == 0, x.shape)
  np.testing.assert_array_equal(np.asarray(out)[known], np.asarray(x)[known])
