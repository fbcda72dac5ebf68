"""DeCo's frequency loss against the public code's arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.flow.frequency import (
  YCBCR,
  block_dct,
  dct_matrix,
  frequency_loss,
  frequency_weights,
)


def test_the_transform_is_the_public_codes(golden, assert_close):
  arrays = golden('rivals/deco')
  assert_close(dct_matrix(), arrays['dct_mat'])
  for case in ('loss0', 'loss1'):
    target = arrays[f'{case}/target'].transpose(0, 2, 3, 1)
    dct_BrusvC = block_dct(jnp.asarray(target))
    expected = arrays[f'{case}/dct_target']
    assert_close(dct_BrusvC.transpose(0, 5, 1, 3, 2, 4), expected)
    ycbcr = arrays[f'{case}/ycbcr_target'].transpose(0, 2, 3, 1)
    assert_close(target @ YCBCR.T, ycbcr)


@pytest.mark.parametrize(
  'quality, mode, gamma',
  [
    (85, 'inv_gamma', 1.0),
    (50, 'inv_gamma', 1.0),
    (95, 'inv_gamma', 0.5),
    (30, 'inv', 1.0),
  ],
)
def test_weights_are_the_public_codes(
  golden, assert_close, quality, mode, gamma
):
  expected = golden('rivals/deco')[f'freq_w/q{quality}_{mode}_g{gamma}']
  weights = frequency_weights(quality, mode, gamma)
  assert_close(weights, expected[0, :, 0, 0])
  np.testing.assert_allclose(weights.mean((1, 2)), 1, rtol=1e-6)


@pytest.mark.parametrize('case', ['loss0', 'loss1'])
def test_loss_and_gradient_are_the_public_codes(golden, assert_close, case):
  arrays = golden('rivals/deco')
  predicted, target = (
    jnp.asarray(arrays[f'{case}/{name}'].transpose(0, 2, 3, 1))
    for name in ('pred', 'target')
  )

  def loss(predicted):
    return jnp.mean(frequency_loss(predicted, target, frequency_weights()))

  def total(predicted):
    return loss(predicted) + jnp.mean((predicted - target) ** 2)

  assert_close(loss(predicted), arrays[f'{case}/freq_loss'])
  for fn, name in ((loss, 'grad_freq'), (total, 'grad_total')):
    gradient = jax.grad(fn)(predicted).transpose(0, 3, 1, 2)
    assert_close(gradient, arrays[f'{case}/{name}'])


def test_even_weights_measure_the_squared_error_of_ycbcr():
  """The transform is orthonormal; each example has its own loss."""
  shape = (3, 16, 24, 3)
  predicted, target = (
    jax.random.normal(jax.random.key(i), shape) for i in range(2)
  )
  loss = frequency_loss(predicted, target, np.ones((3, 8, 8), np.float32))
  error = (predicted - target) @ YCBCR.T
  np.testing.assert_allclose(loss, (error**2).mean((1, 2, 3)), rtol=1e-5)
