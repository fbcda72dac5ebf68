"""The network against the authors' arrays, and what must hold of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.pixeldit import from_official
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import (
  PixelDiT,
  axes_of,
  weights_of,
)
from pixeldit_jax.sharding import spec

TINY = ModelConfig(
  num_classes=10,
  patch_size=4,
  width=32,
  heads=2,
  patch_depth=2,
  pixel_width=8,
  pixel_depth=2,
)

ABLATIONS = [
  dict(),
  dict(modulation='post'),
  dict(pixel_adaln='patch'),
  dict(pixel_adaln='global'),
  dict(pixel_attention='none'),
  dict(pixel_depth=0),
  dict(norm='layer'),
  dict(positions='absolute'),
  dict(norm='layer', positions='absolute', pixel_depth=0),
]


def tiny(**overrides) -> PixelDiT:
  return PixelDiT(dataclasses.replace(TINY, **overrides), rngs=nnx.Rngs(0))


def randomized(model: PixelDiT, scale=0.2) -> PixelDiT:
  """The same network with every weight random, so that nothing is zero."""
  leaves, treedef = jax.tree.flatten(weights_of(model))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)
  ]
  return nnx.merge(nnx.graphdef(model), treedef.unflatten(leaves))


def inputs(height=8, width=12, batch=2):
  x = jax.random.normal(jax.random.key(2), (batch, height, width, 3))
  t = jnp.linspace(0.2, 0.9, batch)
  y = jnp.arange(batch, dtype=jnp.int32)
  return x, t, y


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize(
  'case',
  ['c2i_forward 16x16', 'c2i_forward 16x24', 'c2i_forward_postmod 16x16'],
)
def test_forward_and_every_block_are_the_authors(
  golden, assert_close, case, scan
):
  name, size = case.split()
  arrays = golden(name)
  model = from_official(arrays.below('w'), scan=scan)
  x = arrays[f'{size}/x'].transpose(0, 2, 3, 1)
  v, features = model.with_features(x, arrays[f'{size}/t'], arrays[f'{size}/y'])
  assert_close(v.transpose(0, 3, 1, 2), arrays[f'{size}/out'])
  for path in ('patch', 'pixel'):
    for i, block in enumerate(features[f'{path}_blocks']):
      expected = arrays[f'{size}/{path}_block_{i}']
      assert_close(block.reshape(expected.shape), expected)


@pytest.mark.parametrize('overrides', ABLATIONS, ids=str)
def test_every_ablation_starts_at_zero_and_learns_from_its_input(overrides):
  model = tiny(**overrides)
  x, t, y = inputs()
  np.testing.assert_array_equal(model(x, t, y), 0)
  model = randomized(model)
  v = model(x, t, y)
  assert v.shape == x.shape and bool(jnp.isfinite(v).all())
  assert jnp.abs(model(x + 0.1, t, y) - v).max() > 1e-3
  assert jnp.abs(model(x, t * 0.5, y) - v).max() > 1e-3
  assert jnp.abs(model(x, t, y + 1) - v).max() > 1e-3


def test_pre_modulated_blocks_start_as_the_identity():
  model = tiny()
  x, t, y = inputs()
  _, features = model.with_features(x, t, y)
  for blocks in features.values():
    np.testing.assert_array_equal(blocks[0], blocks[1])
  patches = model.patch_embed
  from pixeldit_jax.model.embed import patchify

  x_BLPC = patchify(x, 4)
  np.testing.assert_array_equal(
    features['patch_blocks'][0], patches(x_BLPC, (2, 3))
  )
  np.testing.assert_array_equal(
    features['pixel_blocks'][0], model.pixel_embed(x_BLPC, (2, 3))
  )


@pytest.mark.parametrize('remat', ['none', 'matmuls', 'full'])
@pytest.mark.parametrize('scan', [True, False])
def test_scan_and_remat_change_no_gradient(assert_close, scan, remat):
  x, t, y = inputs()

  def gradient(model):
    def loss(weights):
      return jnp.mean(nnx.merge(nnx.graphdef(model), weights)(x, t, y) ** 2)

    return jax.jit(jax.grad(loss))(weights_of(model))

  expected = gradient(randomized(tiny()))
  actual = gradient(
    randomized(tiny(scan=scan, patch_remat=remat, pixel_remat=remat))
  )
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), actual, expected)


def test_one_time_for_all_is_the_same_as_each():
  model = randomized(tiny())
  x, _, y = inputs()
  np.testing.assert_array_equal(model(x, 0.3, y), model(x, jnp.full(2, 0.3), y))


def test_images_of_a_batch_do_not_mix(assert_close):
  model = randomized(tiny())
  x, t, y = inputs(batch=3)
  assert_close(model(x, t, y)[1:2], model(x[1:2], t[1:2], y[1:2]), 1e-5)


def test_bfloat16_computes_near_float32(assert_close):
  x, t, y = inputs()
  exact = randomized(tiny(), 0.05)(x, t, y)
  model = randomized(tiny(dtype='bfloat16'), 0.05)
  rough = model(x, t, y)
  assert rough.dtype == jnp.float32
  assert {a.dtype for a in jax.tree.leaves(weights_of(model))} == {
    jnp.dtype('float32')
  }
  assert_close(rough, exact, 0.05)
  assert jnp.abs(rough - exact).max() > 0


@pytest.mark.parametrize('overrides', ABLATIONS, ids=str)
def test_every_weight_names_each_of_its_axes(overrides):
  model = tiny(**overrides)
  weights = weights_of(model)
  axes = jax.tree.map(lambda _, names: names, weights, axes_of(model))
  jax.tree.map(lambda w, names: spec(names), weights, axes_of(model))
  flat = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
  assert [w.ndim for w in jax.tree.leaves(weights)] == [len(a) for a in flat]


@pytest.mark.parametrize(
  'overrides, named',
  [
    (dict(width=100, heads=16), '128'),
    (dict(heads=0), 'heads'),
    (dict(patch_depth=0), 'patch_depth'),
    (dict(pixel_width=6), 'pixel_width'),
    (dict(pixel_attention='channels'), 'pixel_attention'),
    (dict(norm='batch'), "('rms', 'layer')"),
    (dict(dtype='float16'), 'dtype'),
  ],
)
def test_impossible_networks_are_refused(overrides, named):
  with pytest.raises(ValueError, match='model.') as error:
    ModelConfig(**overrides)
  assert named in str(error.value)


def test_an_image_that_does_not_divide_is_refused_with_one_that_does():
  x, t, y = inputs(8, 10)
  with pytest.raises(ValueError, match='8 x 10.*use 8 x 8'):
    tiny()(x, t, y)
