"""The objective of average velocities, against arrays of pMF's public code.

Their time is 1 - ours, and their velocities are minus ours.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_arrays import Golden

from pixeldit_jax.convert.official import from_official, rename_to_official
from pixeldit_jax.flow.mean_flow import (
  MeanFlowDraws,
  draw_mean_flow,
  guidance_scales,
  mean_flow_loss,
)
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.samplers.mean_flow import average_of

# The derivative has a factor of up to 20 near the data, in float32.
DERIVATIVE = 1e-4


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


@functools.cache
def setting(name):
  arrays = Golden('one_step')
  model = from_official(arrays.below('w'), 'pmf')
  train = arrays.below(name)
  draws = MeanFlowDraws(
    s=jnp.asarray(1 - train['t']),
    q=jnp.asarray(1 - train['r']),
    omega=jnp.asarray(train['omega']),
    low=jnp.asarray(1 - train['t_max']),
    high=jnp.asarray(1 - train['t_min']),
    dropped=jnp.asarray(train['drop_mask']),
  )
  return arrays, model, train, draws


def mean_abs(images, data):
  return jnp.mean(jnp.abs(images - data), axis=(1, 2, 3))


def squares_of_blocks(images, data):
  error = images - data
  B, H, W, C = error.shape
  means = error.reshape(B, H // 4, 4, W // 4, 4, C).mean((2, 4))
  return jnp.sum(means**2, axis=(1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['train', 'train_aux'])
def test_the_loss_and_its_gradients_are_the_public_codes(name, assert_close):
  arrays, model, train, draws = setting(name)
  perceptual, meta = {}, arrays.meta['train_aux']
  if name == 'train_aux':
    perceptual = dict(
      perceptual_0=(meta['lpips_lambda'], mean_abs),
      perceptual_1=(meta['convnext_lambda'], squares_of_blocks),
    )
  graphdef = nnx.graphdef(model)

  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(weights):
    average = average_of(nnx.merge(graphdef, weights))
    each, parts = mean_flow_loss(
      average,
      nhwc(train['x']),
      nhwc(train['e']),
      draws,
      jnp.asarray(train['y']),
      model.config.num_classes,
      perceptual,
      1 - meta['perceptual_max_t'],
    )
    return jnp.mean(each), (each, parts)

  (total, (each, parts)), gradient = jax.jit(loss)(weights_of(model))
  expected = train['loss_u'] + train['loss_v']
  if perceptual:
    expected = expected + train['aux_loss']
    assert_close(parts['perceptual_0'], train['aux_a'])
    assert_close(parts['perceptual_1'], train['aux_b'])
  assert_close(each, expected)
  assert_close(total, train['loss'])
  size = train['x'][0].size
  assert_close(parts['loss'] * size, train['sq_u'])
  assert_close(parts['velocity'] * size, train['sq_v'])
  named = rename_to_official(jax.tree.map(np.asarray, gradient), model.config)
  for path, array in arrays.below(f'{name}/grad').items():
    assert_close(named[path], array)
  norm = np.sqrt(sum(np.sum(np.square(g, dtype='d')) for g in named.values()))
  np.testing.assert_allclose(norm, train['grad_norm'], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['train', 'train_aux'])
def test_velocities_and_the_derivative_are_the_public_codes(name, assert_close):
  _, model, train, draws = setting(name)
  average = average_of(model)
  data, noise = nhwc(train['x']), nhwc(train['e'])
  x = interpolate(data, noise, draws.s)
  assert_close(x, nhwc(train['z_t']))
  zero, one = jnp.zeros_like(draws.s), jnp.ones_like(draws.s)
  inside = (draws.low <= draws.s) & (draws.s <= draws.high)
  w = jnp.where(inside, draws.omega, 1.0)
  y, s = jnp.asarray(train['y']), draws.s
  _, v_c = average(x, s, s, y, w, zero, one)
  assert_close(-v_c, nhwc(train['v_c']))
  null = jnp.full_like(y, model.config.num_classes)
  _, v_u = average(x, s, s, null, one, zero, one)
  assert_close(-v_u, nhwc(train['v_u']))
  dropped = jnp.asarray(train['y_dropped'])
  u, du, v = jax.jvp(
    lambda x, s: average(
      x, s, draws.q, dropped, draws.omega, draws.low, draws.high
    ),
    (x, s),
    (v_c, one),
    has_aux=True,
  )
  assert_close(-u, nhwc(train['u']))
  assert_close(-v, nhwc(train['v']))
  assert_close(du, nhwc(train['du_dt']), DERIVATIVE)
  step = (draws.q - s)[:, None, None, None]
  assert_close(-(u - step * du), nhwc(train['V']))


@pytest.mark.parametrize('beta', [1, 2])
def test_scales_of_guidance_are_the_public_codes(golden, beta):
  arrays = golden('one_step').below('cfg_scale')
  found = guidance_scales(jnp.asarray(arrays['u']), beta)
  np.testing.assert_allclose(found, arrays[f'beta{beta}'], rtol=1e-5)


def test_what_is_drawn_is_what_a_step_may_be():
  draws = draw_mean_flow(jax.random.key(0), 64, uniform=0.1)
  assert bool((draws.s <= draws.q).all())
  np.testing.assert_array_equal(draws.s[:32], draws.q[:32])
  assert bool((draws.s[32:] < draws.q[32:]).all())
  np.testing.assert_array_equal(draws.low[:32], 0)
  assert bool((draws.low <= 0.5).all() & (draws.high >= 0.5).all())
  assert bool((draws.omega >= 1).all() & (draws.omega <= 8).all())
  count = int(draws.dropped.sum())
  assert 0 < count < 20 and bool(draws.dropped[:count].all())
