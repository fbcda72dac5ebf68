"""pMF's network against its public code; steps told to any other network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.cost import count_parameters, forward_flops
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.mean_flow import PREFIX, Step
from pixeldit_jax.model.pixeldit import make_model, weights_of
from pixeldit_jax.model.rope import rotary_2d, unrotated_first
from pixeldit_jax.model.stack import run_blocks


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def velocity(x, image, t):
  """Theirs: t = 1 is noise."""
  return (x - image) / np.clip(t, 0.05, 1)[:, None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize('scan', [True, False])
def test_both_branches_are_the_public_codes(golden, assert_close, scan):
  arrays = golden('one_step')
  model = from_official(arrays.below('w'), 'pmf', scan=scan)
  a = arrays.below('forward')
  x, step = nhwc(a['x']), Step(a['h'], a['omega'], a['t_min'], a['t_max'])
  u = model(x, a['h'], a['y'], a['omega'], a['t_min'], a['t_max'])
  assert_close(velocity(x, u, a['t']), nhwc(a['u']))
  both = model.branches(x, jnp.asarray(a['y']), step)
  for image, name in zip(both, ('u', 'v')):
    assert_close(velocity(x, image, a['t']), nhwc(a[name]))


def test_every_block_is_the_public_codes(golden, assert_close):
  arrays = golden('one_step')
  model = from_official(arrays.below('w'), 'pmf')
  a = arrays.below('forward')
  step = Step(a['h'], a['omega'], a['t_min'], a['t_max'])
  for name, found in model.step_embed(step).items():
    released = dict(t_min='cfg_t_start', t_max='cfg_t_end').get(name, name)
    assert_close(found, a[f'{released}_embedder'])
  assert_close(model.class_embed(jnp.asarray(a['y'])), a['y_embedder'])
  grid = model.config.grid(*a['x'].shape[2:])
  s = model.tokens(nhwc(a['x']), jnp.asarray(a['y']), step, grid)
  rotary = rotary_2d(*grid, model.config.head_size, 'row_column')
  for table, name in zip(rotary, ('cos', 'sin')):
    assert_close(table, arrays[f'rope/{name}'])
  rotary = unrotated_first(rotary, PREFIX)

  def check(blocks, s, name):
    s, outputs = run_blocks(blocks, s, rotary, scan=True, remat='none')
    for i, output in enumerate(outputs):
      assert_close(output, a[f'{name}_{i}'])
    return s

  shared = check(model.patch_blocks, s, 'shared_blocks')
  for name, blocks, output in (
    ('u', model.u_blocks, model.u_output),
    ('v', model.v_blocks, model.v_output),
  ):
    s = check(blocks, shared, f'{name}_heads')
    expected = a[f'{name}_final_layer']
    assert_close(output(s[:, PREFIX:], None).reshape(expected.shape), expected)


@pytest.mark.parametrize(
  'size, patch, sampled, trained, gflops',
  [  # published: 33, 117 and 271 multiply-adds
    ('B', 16, 118_234_240, 175_474_304, 66.7),
    ('B', 32, 120_300_928, 179_312_768, 67.7),
    ('L', 16, 410_320_768, 511_789_696, 232.7),
    ('L', 32, 412_977_280, 516_807_808, 234.1),
    ('H', 16, 955_508_992, 1_113_904_640, 540.7),
    ('H', 32, 959_050_240, 1_120_397_312, 542.5),
  ],
)
def test_it_counts_as_the_public_code(size, patch, sampled, trained, gflops):
  config = ModelConfig(**preset('pmf', size) | dict(patch_size=patch))
  assert count_parameters(config) == trained
  side = 16 * patch
  assert forward_flops(config, side, side) / 1e9 == pytest.approx(gflops, 1e-3)
  config = dataclasses.replace(config, velocity_branch=False)
  assert count_parameters(config) == sampled


@pytest.mark.slow
def test_it_starts_at_an_image_of_zeros_and_takes_one_size():
  config = ModelConfig(
    **preset('pmf')
    | dict(
      num_classes=3,
      patch_size=4,
      width=32,
      heads=2,
      patch_depth=2,
      branch_depth=1,
      position_grid=4,
      bottleneck=8,
    )
  )
  model = make_model(config, nnx.Rngs(0))
  one = jnp.ones(2)
  x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
  y = jnp.arange(2)
  np.testing.assert_array_equal(model(x, one, y, one, 0 * one, one), 0)
  with pytest.raises(UserError, match='4 x 3 patches: the network has learned'):
    model(x[:, :, :12], one, y, one, 0 * one, one)


TINY = dict(
  num_classes=10, patch_size=4, width=32, heads=2, patch_depth=2, scan=False
)


@pytest.mark.slow
@pytest.mark.parametrize(
  'family, more',
  [
    ('pixeldit', dict(pixel_width=8, pixel_depth=1)),
    ('deco', dict(pixel_width=8, pixel_depth=1)),
    ('jit', dict(bottleneck=8, context_tokens=2, context_start=1)),
  ],
)
def test_a_step_starts_without_effect_and_then_has_one(family, more):
  config = ModelConfig(**preset(family) | TINY | more)
  told = dataclasses.replace(config, mean_flow='added')
  weights = weights_of(make_model(told, nnx.Rngs(0)))
  noise = iter(jax.random.split(jax.random.key(1), 1000))
  random = jax.tree.map(
    lambda a: a + 0.2 * jax.random.normal(next(noise), a.shape), weights
  )
  plain = {k: v for k, v in random.items() if k != 'step_embed'}
  graphdef = nnx.graphdef(make_model(told, nnx.Rngs(0)))
  x = jax.random.normal(jax.random.key(2), (2, 8, 12, 3))
  t, y = jnp.array([0.2, 0.7]), jnp.arange(2)
  step = Step(h=t, omega=1 + t, t_min=0 * t, t_max=1 + 0 * t)
  before = nnx.merge(graphdef, random | {'step_embed': weights['step_embed']})
  expected = nnx.merge(nnx.graphdef(make_model(config, nnx.Rngs(0))), plain)(
    x, t, y
  )
  np.testing.assert_array_equal(before(x, t, y, step=step), expected)
  np.testing.assert_array_equal(before(x, t, y), expected)
  after = nnx.merge(graphdef, random)
  assert jnp.abs(after(x, t, y, step=step) - expected).max() > 1e-3
