"""Patches that lie elsewhere in each evaluation of a solver."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.errors import UserError
from pixeldit_jax.metrics.patch_borders import PixelDifferences
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.shifted_patches import on_shifted_patches
from pixeldit_jax.sampling.sampler import Sampler

PATCH, SIDE = 4, 16


def of(context, **options):
  config = context.config.copy_and_resolve_references()
  config.sampler.update(shift_patches=True, **options)
  return dataclasses.replace(context, config=config)


def images(batch=2):
  return jax.random.normal(jax.random.key(0), (batch, SIDE, SIDE, 3))


@pytest.mark.parametrize('t', [0.3, [0.3, 0.8]], ids=('one', 'of each'))
def test_a_velocity_without_patches_stays_as_it_is(t):
  shifted = on_shifted_patches(lambda x, t: jnp.sin(x), PATCH)
  np.testing.assert_array_equal(
    shifted(images(), jnp.asarray(t)), jnp.sin(images())
  )


def test_images_at_times_of_their_own_are_moved_as_if_alone():
  places = jnp.arange(SIDE**2, dtype=jnp.float32).reshape(1, SIDE, SIDE, 1)
  shifted = on_shifted_patches(lambda x, t: x * places, PATCH)
  times = jnp.linspace(0, 1, 8)
  found = shifted(jnp.ones((8, SIDE, SIDE, 1)), times)
  one = jnp.ones((1, SIDE, SIDE, 1))
  for image, t in zip(found, times):
    np.testing.assert_array_equal(image[None], shifted(one, t))
  assert len({float(image[0, 0, 0]) for image in found}) > 4


def test_the_errors_of_patches_do_not_add_up():
  """A network that takes each patch for its mean."""

  def velocity(x, t):
    patches = x.reshape(2, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
    means = patches.mean((2, 4), keepdims=True)
    return 3 * (means - patches).reshape(x.shape)

  def border_ratio(velocity):
    x = solvers.euler(velocity, images(), np.linspace(0, 1, 33))
    differences = PixelDifferences.of(np.uint8(np.clip(64 * x + 128, 0, 255)))
    return differences.border_ratio(PATCH)

  assert border_ratio(velocity) > 1.5
  assert border_ratio(on_shifted_patches(velocity, PATCH)) < 1.15


def draw(context, weights, indices):
  sampler = Sampler(context, batch_size=len(indices))
  (found,) = sampler.sample(weights, indices, indices % 10)
  return found


@pytest.mark.slow
def test_samples_depend_on_no_others(tiny_run, tiny_weights):
  context, weights = of(tiny_run[0], steps=3), tiny_weights[1]
  together = draw(context, weights, np.arange(8))
  assert (together != draw(tiny_run[0], weights, np.arange(8))).any()
  alone = draw(context, weights, np.array([5]))
  assert np.abs(together[5].astype(int) - alone[0]).max() <= 1


@pytest.mark.parametrize(
  'model, sampler, why',
  [
    ({}, dict(reuse_patch_tokens=2), 'do not move'),
    (dict(prediction='noise'), dict(solver='ddim'), 'no velocity'),
  ],
)
def test_what_cannot_be_moved_is_refused(tiny_run, model, sampler, why):
  context = of(tiny_run[0], **sampler)
  context.config.model.update(model)
  with pytest.raises(UserError, match=why):
    Sampler(context)
