"""Steps that share patch tokens: the patch path once in every few steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixeldit_jax.configs import imagenet256

from pixeldit_jax.config import model_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.evaluations import sampling_flops
from pixeldit_jax.samplers.token_reuse import sharing_tokens
from pixeldit_jax.sampling.sampler import Sampler

TIMES = np.linspace(0, 1, 8)


def of(context, **options):
  config = context.config.copy_and_resolve_references()
  config.sampler.update(options)
  return dataclasses.replace(context, config=config)


def draw(context, weights, trajectory=False):
  sampler = Sampler(context, batch_size=8, return_trajectory=trajectory)
  (images,) = sampler.sample(weights, np.arange(8), np.arange(8))
  return images


@pytest.mark.slow
@pytest.mark.parametrize(
  'solver', [s for s in solvers.SOLVERS], ids=lambda s: s.__name__
)
def test_a_velocity_of_x_and_t_alone_gives_the_steps_of_the_solver(solver):
  def velocity(x, t):
    return jnp.sin(3 * x) - t * x

  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
  expected = solver(velocity, x, TIMES)
  for every in (2, 3, 9):
    shared = sharing_tokens(
      solver, lambda x, t: velocity, TIMES, every, lambda velocity: {}
    )
    found = jax.jit(lambda x, f=shared: f(x, solvers.last_state))(x)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.slow
def test_tokens_are_those_of_the_first_step_of_each_group(
  tiny_run, tiny_weights
):
  context, weights = tiny_run[0], tiny_weights[1]
  options = dict(steps=4, solver='euler', interval=(0.3, 0.8))
  plain = draw(of(context, **options), weights, trajectory=True)
  shared = of(context, **options, reuse_patch_tokens=3)
  states = draw(shared, weights, trajectory=True)
  assert states.shape == (8, 3, *plain.shape[2:])  # noise, 3 steps, the last
  np.testing.assert_array_equal(states[:, 0], plain[:, 0])
  assert (states[:, 1] != plain[:, 3]).any()
  images = draw(shared, weights)
  np.testing.assert_array_equal(images, states[:, -1])
  steps = list(
    Sampler(shared, batch_size=8).sample_by_steps(
      weights, np.arange(8), np.arange(8)
    )
  )
  assert [step.time for step in steps] == [0.75, 1.0]
  assert abs(steps[-1].images.astype(int) - images).max() <= 1


def test_networks_that_cannot_share_are_refused_before_a_compile(tiny_run):
  context = tiny_run[0]
  for model, why in (
    (dict(pixel_depth=0), 'no pixel path'),
    (dict(pixel_adaln='global'), 'by the time alone'),
    (dict(mean_flow='added'), 'average velocity'),
  ):
    other = of(context, reuse_patch_tokens=2)
    other.config.model.update(model)
    with pytest.raises(UserError, match=why):
      Sampler(other)


@pytest.mark.parametrize('every,ratio', [(2, 1.50), (3, 1.83), (4, 2.09)])
def test_operations_saved_on_xl(every, ratio):
  """The patch path has 71% of them."""
  config = imagenet256.get_config('size=XL')
  model = model_config(config)
  complete = sampling_flops(config, model)
  config.sampler.reuse_patch_tokens = every
  saved = complete / sampling_flops(config, model)
  assert saved == pytest.approx(ratio, abs=0.02)
