"""Predicted images read as velocities."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.flow.path import interpolate, velocity
from pixeldit_jax.flow.prediction import (
  as_velocity,
  target_velocity,
  velocity_to,
)


def examples(t):
  data, noise = (
    jax.random.normal(jax.random.key(i), (len(t), 2, 2, 3)) for i in range(2)
  )
  return data, noise, interpolate(data, noise, t)


def test_the_image_at_the_end_gives_the_velocity_of_the_path():
  t = jnp.array([0.0, 0.5, 0.94])
  data, noise, x = examples(t)
  v = as_velocity('image', data, x, t)
  np.testing.assert_allclose(v, velocity(data, noise), atol=2e-5)
  np.testing.assert_array_equal(as_velocity('velocity', data, x, t), data)


def test_near_the_data_it_is_bounded():
  t = jnp.array([0.95, 0.99, 1.0])
  data, noise, x = examples(t)
  bounded = (data - x) / 0.05
  np.testing.assert_allclose(velocity_to(data, x, t), bounded, rtol=1e-5)
  np.testing.assert_allclose(velocity_to(data, x, 0.99), bounded, rtol=1e-5)


def test_the_error_is_that_of_the_image_over_the_time_left():
  t = jnp.array([0.2, 0.7, 0.99])
  data, noise, x = examples(t)
  output = data + 1
  error = as_velocity('image', output, x, t) - target_velocity(
    'image', data, noise, x, t
  )
  expected = 1 / jnp.maximum(1 - t, 0.05)
  np.testing.assert_allclose(error[:, 0, 0, 0], expected, rtol=1e-4)
  exact = target_velocity('velocity', data, noise, x, t)
  np.testing.assert_array_equal(exact, data - noise)
