"""What rules of guidance make of two velocities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.errors import UserError
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.samplers.stronger_guidance import (
  combine_velocities,
  get_rule,
  on_schedule,
  plain,
  projected,
  rescaled,
  zero_star,
)

T = jnp.float32(0.3)


def arrays():
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (2, 4, 4, 3)) for key in keys]


@pytest.mark.parametrize(
  'combine',
  [plain(3.0), rescaled(3.0, 0.0), projected(3.0, 1.0), zero_star(3.0, 0.0)],
)
def test_rules_that_change_nothing_are_classifier_free(combine):
  v, u, x = arrays()
  u = v if combine.__qualname__.startswith('zero_star') else u
  expected = u + 3 * (v - u)
  np.testing.assert_allclose(combine(v, u, x, T), expected, atol=1e-4)


@pytest.mark.parametrize('rule', [plain, rescaled, projected, zero_star])
def test_a_scale_of_one_is_the_velocity_that_is_wanted(rule):
  v, u, x = arrays()
  np.testing.assert_allclose(rule(1.0)(v, u, x, T), v, atol=1e-5)


def test_a_rescaled_velocity_has_the_spread_of_the_one_wanted():
  v, u, x = arrays()
  found = rescaled(5.0, 1.0)(v, u, x, T)
  for a, b in zip(found, v):
    np.testing.assert_allclose(jnp.std(a), jnp.std(b), rtol=1e-5)


def test_projected_guidance_adds_nothing_along_the_image():
  v, u, x = arrays()
  added = projected(4.0)(v, u, x, T) - v
  image = x + (1 - T) * v
  dots = jnp.sum(added * image, (1, 2, 3))
  assert jnp.abs(dots).max() < 1e-3 and jnp.abs(added).max() > 0.1
  short = projected(4.0, 1.0, longest=0.1)(v, u, x, T) - v
  length = jnp.sqrt(jnp.sum(((1 - T) * short) ** 2, (1, 2, 3)))
  np.testing.assert_allclose(length, 0.3, rtol=1e-4)


def test_zero_star_fits_the_other_and_waits():
  v, u, x = arrays()
  same = zero_star(4.0, 0.0)(v, 0.5 * v, x, T)  # fits exactly: nothing to add
  np.testing.assert_allclose(same, v, atol=1e-5)
  early = zero_star(4.0, 0.4)(v, u, x, T)
  np.testing.assert_array_equal(early, 0)


def test_they_go_with_any_solver_and_on_a_schedule():
  v, u, x = arrays()
  wanted, away = (lambda x, t, a=a: a - x for a in (v, u))
  inside = lambda t: jnp.where(t < 0.5, 2.0, 1.0)  # noqa: E731
  velocity = combine_velocities(wanted, away, on_schedule(plain, inside))
  found = solvers.euler(velocity, x, time_grid(4))
  expected = solvers.euler(
    guide(wanted, away, 2.0, (0.0, 0.5), 'zero'), x, time_grid(4)
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_rule_holds_inside_the_interval():
  v, u, x = arrays()
  wanted, away = (lambda x, t, a=a: a for a in (v, u))
  velocity = guide(wanted, away, 3.0, (0.2, 0.5), rule=get_rule('rescaled'))
  expected = rescaled(3.0)(v, u, x, T)
  np.testing.assert_allclose(velocity(x, T), expected, atol=1e-5)
  np.testing.assert_array_equal(velocity(x, jnp.float32(0.6)), v)


def test_impossible_numbers_are_told():
  with pytest.raises(UserError, match=r'share=2 of rescaled guidance'):
    rescaled(3.0, 2)
  with pytest.raises(UserError, match="sampler.rule='cfg': use one of plain"):
    get_rule('cfg')
  with pytest.raises(UserError, match='longest=-1 of projected guidance'):
    projected(3.0, longest=-1)
