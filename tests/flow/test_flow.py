"""Path, times and loss of flow matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.flow.loss import drop_labels, flow_matching_loss
from pixeldit_jax.flow.path import interpolate, velocity
from pixeldit_jax.flow.time import sample_time, shift_time


def examples(batch=4):
  keys = jax.random.split(jax.random.key(0), 2)
  shape = (batch, 4, 6, 3)
  return tuple(jax.random.normal(key, shape) for key in keys)


def test_the_path_goes_from_noise_to_data_at_its_velocity():
  data, noise = examples()
  np.testing.assert_array_equal(interpolate(data, noise, jnp.zeros(4)), noise)
  np.testing.assert_array_equal(interpolate(data, noise, jnp.ones(4)), data)
  t = jnp.linspace(0.1, 0.8, 4)
  ahead = interpolate(data, noise, t + 0.125)
  here = interpolate(data, noise, t)
  np.testing.assert_allclose(
    (ahead - here) / 0.125, velocity(data, noise), atol=1e-5
  )


def test_the_loss_of_each_example_is_its_own_mean_square():
  data, noise = examples()
  error = jnp.arange(4.0)[:, None, None, None]
  target = velocity(data, noise)
  loss = flow_matching_loss(target + error, target)
  np.testing.assert_allclose(loss, jnp.arange(4.0) ** 2, atol=1e-5)


def test_shift_keeps_the_ends_and_moves_towards_noise():
  t = jnp.linspace(0, 1, 11)
  np.testing.assert_allclose(shift_time(t, 1.0), t, atol=1e-7)
  shifted = shift_time(t, 3.0)
  assert shifted[0] == 0 and shifted[-1] == 1
  assert bool((shifted[1:-1] < t[1:-1]).all())
  assert shift_time(0.5, 3.0) == pytest.approx(0.25)


def test_times_are_logit_normal():
  t = sample_time(jax.random.key(1), 20_000, 1.0)
  z = jnp.log(t / (1 - t))
  assert abs(float(z.mean())) < 0.03 and abs(float(z.std()) - 1) < 0.03
  shifted = sample_time(jax.random.key(1), 20_000, 3.0)
  np.testing.assert_allclose(shifted, shift_time(t, 3.0), rtol=1e-6)


def test_discrete_times_are_multiples_before_the_shift():
  key = jax.random.key(1)
  t = sample_time(key, 2000, 1.0, discrete_steps=100)
  np.testing.assert_allclose(t * 100, jnp.round(t * 100), atol=1e-4)
  exact = sample_time(key, 2000, 1.0)
  assert bool((exact - t >= 0).all()) and bool((exact - t < 0.01).all())
  shifted = sample_time(key, 2000, 4.0, discrete_steps=100)
  np.testing.assert_allclose(shifted, shift_time(t, 4.0), rtol=1e-6)


def test_labels_are_dropped_at_the_rate():
  labels = jnp.arange(20_000, dtype=jnp.int32) % 10
  dropped = drop_labels(jax.random.key(2), labels, 0.1, 10)
  assert abs(float((dropped == 10).mean()) - 0.1) < 0.01
  kept = dropped != 10
  np.testing.assert_array_equal(dropped[kept], labels[kept])
