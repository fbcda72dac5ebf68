"""Diffusion's tables and DiT's loss, against arrays of its public code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import from_official, rename_to_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.diffusion import (
  hybrid_loss,
  kept_steps,
  linear_diffusion,
  respaced,
)
from pixeldit_jax.model.pixeldit import weights_of


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def test_the_tables_are_the_public_codes(golden):
  arrays = golden('rivals/dit').below('ddpm1000')
  found, index = linear_diffusion(), arrays['index']
  of_data, of_state = found.posterior_weights
  for name, table in (
    ('betas', found.betas),
    ('alphas_cumprod', found.signal),
    ('posterior_variance', found.posterior_variance),
    ('posterior_log_variance_clipped', found.posterior_log_variance),
    ('posterior_mean_coef1', of_data),
    ('posterior_mean_coef2', of_state),
  ):
    assert table.dtype == np.float64
    np.testing.assert_allclose(table[index], arrays[name], rtol=1e-6)


@pytest.mark.parametrize('steps', ['250', '50', '10', 'ddim25', '10,5'])
def test_the_steps_that_are_kept_are_the_public_codes(golden, steps):
  arrays = golden('rivals/dit').below(f'respace/{steps}')
  found = respaced(linear_diffusion(), steps)
  np.testing.assert_array_equal(found.kept, arrays['timestep_map'])
  np.testing.assert_allclose(found.betas, arrays['betas'], rtol=1e-6)


@pytest.mark.slow
def test_the_hybrid_loss_and_its_gradients_are_the_public_codes(
  golden, assert_close
):
  arrays = golden('rivals/dit')
  train = arrays.below('train')
  model = from_official(arrays.below('w'), heads=2)
  diffusion = linear_diffusion()
  data, noise = nhwc(train['x']), nhwc(train['noise'])
  t, y = jnp.asarray(train['t'], jnp.int32), jnp.asarray(train['y'], jnp.int32)
  x = diffusion.noisy(data, noise, t)
  assert_close(x, nhwc(train['x_t']))
  graphdef = nnx.graphdef(model)

  @jax.jit
  def gradients(weights):
    output, pull = jax.vjp(
      lambda w: nnx.merge(graphdef, w)(x, t.astype(jnp.float32), y), weights
    )

    def loss(output):
      parts = hybrid_loss(diffusion, output, data, noise, t)
      return jnp.mean(parts['mse'] + parts['vb']), parts

    of_output, parts = jax.grad(loss, has_aux=True)(output)
    return output, parts, of_output, pull(of_output)[0]

  output, parts, of_output, of_weights = gradients(weights_of(model))
  assert_close(output, nhwc(train['model_out']))
  for name, found in parts.items():
    np.testing.assert_allclose(found, train[name], rtol=1e-4)
  np.testing.assert_allclose(
    parts['mse'] + parts['vb'], train['loss'], rtol=1e-4
  )
  assert_close(of_output, nhwc(train['grad_model_out']))
  named = rename_to_official(jax.tree.map(np.asarray, of_weights), model.config)
  for name, expected in arrays.below('train/grad').items():
    assert_close(named[name], expected)


@pytest.mark.parametrize(
  'steps, told',
  [
    (1001, '1001 of 1000 steps; keep fewer'),
    ('ddim300', 'no whole stride gives 300 of 1000 steps'),
    ('many', "a number, as 250, several as '10,5', or 'ddim25'"),
  ],
)
def test_steps_that_cannot_be_kept_are_told(steps, told):
  with pytest.raises(UserError, match=told):
    kept_steps(1000, steps)
