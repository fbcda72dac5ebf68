"""The network against the authors' arrays, and what must hold of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.embed import patchify
from pixeldit_jax.model.pixeldit import (
  PixelDiT,
  abstract_model,
  axes_of,
  weights_of,
)
from pixeldit_jax.sharding import spec
from pixeldit_jax.typing import TextCondition

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
  dict(pixel_attention='channel'),
  dict(pixel_attention='full', pixel_heads=4),
  dict(pixel_depth=0),
  dict(norm='layer'),
  dict(positions='absolute'),
  dict(norm='layer', positions='absolute', pixel_depth=0),
]


@functools.cache
def initialiser(config: ModelConfig):
  """f(scale): weights, with noise of that scale on every one."""

  @jax.jit
  def make(random):
    weights = weights_of(PixelDiT(config, rngs=nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(weights)
    noise = jax.random.normal(jax.random.key(1), (max(a.size for a in leaves),))
    leaves = [a + random * noise[: a.size].reshape(a.shape) for a in leaves]
    return treedef.unflatten(leaves)

  return make


def tiny(random=0.0, **overrides) -> PixelDiT:
  """A network, with noise of that scale on every weight if asked for."""
  config = dataclasses.replace(TINY, **overrides)
  weights = initialiser(config)(random)
  return nnx.merge(nnx.graphdef(abstract_model(config)), weights)


def run(model: PixelDiT, x, t, y):
  """Velocity and features, compiled: much quicker than step by step."""
  graphdef = nnx.graphdef(model)

  @jax.jit
  def forward(weights, x, t, y):
    return nnx.merge(graphdef, weights).with_features(x, t, y)

  return forward(weights_of(model), x, t, y)


def inputs(height=8, width=12, batch=2):
  x = jax.random.normal(jax.random.key(2), (batch, height, width, 3))
  t = jnp.linspace(0.2, 0.9, batch)
  y = jnp.arange(batch, dtype=jnp.int32)
  return x, t, y


@pytest.mark.slow
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
  v, features = run(model, x, arrays[f'{size}/t'], arrays[f'{size}/y'])
  assert_close(v.transpose(0, 3, 1, 2), arrays[f'{size}/out'])
  for path in ('patch', 'pixel'):
    for i, block in enumerate(features[f'{path}_blocks']):
      expected = arrays[f'{size}/{path}_block_{i}']
      assert_close(block.reshape(expected.shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
  'size', [pytest.param('16x16x12', marks=pytest.mark.slow), '16x24x7']
)
def test_forward_with_text_is_the_authors(golden, assert_close, size):
  """Theirs takes 1000 (1 - t) and gives noise - image; ours is a velocity."""
  arrays = golden('t2i')
  model = from_official(arrays.below('w'))
  x = arrays[f'{size}/x'].transpose(0, 2, 3, 1)
  y = TextCondition(arrays[f'{size}/y'])
  v, _ = run(model, x, 1 - arrays[f'{size}/t'] / 1000, y)
  assert_close(-v.transpose(0, 3, 1, 2), arrays[f'{size}/out'])


@pytest.mark.slow
def test_pre_modulated_blocks_start_as_the_identity(assert_close):
  model = tiny()
  x, t, y = inputs()
  _, features = run(model, x, t, y)
  for blocks in features.values():
    np.testing.assert_array_equal(blocks[0], blocks[1])
  x_BLPC = patchify(x, 4)
  embedded = model.patch_embed(x_BLPC, (2, 3))
  assert_close(features['patch_blocks'][0], embedded, 1e-6)
  embedded = model.pixel_embed(x_BLPC, (2, 3))
  assert_close(features['pixel_blocks'][0], embedded, 1e-6)


@functools.cache
def velocity_and_gradient(**overrides):
  """f(weights): both, the gradient that of the velocity's mean square."""
  x, t, y = inputs()
  graphdef = nnx.graphdef(
    abstract_model(dataclasses.replace(TINY, **overrides))
  )

  def loss(weights):
    v = nnx.merge(graphdef, weights)(x, t, y)
    return jnp.mean(v**2), v

  @jax.jit
  def f(weights):
    gradient, v = jax.grad(loss, has_aux=True)(weights)
    return v, gradient

  return f


@pytest.mark.slow
@pytest.mark.parametrize('overrides', ABLATIONS, ids=str)
def test_every_ablation_starts_at_zero_and_uses_every_weight(overrides):
  f = velocity_and_gradient(**overrides)
  v, _ = f(weights_of(tiny(**overrides)))
  assert v.shape == inputs()[0].shape
  np.testing.assert_array_equal(v, 0)
  _, gradient = f(weights_of(tiny(0.2, **overrides)))
  for path, g in jax.tree.leaves_with_path(gradient):
    per_block = g if path[0].key.endswith('_blocks') else g[None]
    for block in per_block:
      assert jnp.abs(block).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize(
  'scan, remat',
  [
    *((True, remat) for remat in ('matmuls', 'full', 'offload')),
    *((False, remat) for remat in ('none', 'full', 'offload')),
  ],
)
def test_scan_and_remat_change_no_gradient(assert_close, scan, remat):
  change = dict(scan=scan, patch_remat=remat, pixel_remat=remat)
  (_, expected), (_, actual) = (
    velocity_and_gradient(**c)(weights_of(tiny(0.2))) for c in ({}, change)
  )
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), actual, expected)


@pytest.mark.slow
def test_one_time_for_all_is_the_same_as_each():
  model = tiny(0.2)
  x, _, y = inputs()
  np.testing.assert_array_equal(
    run(model, x, 0.3, y)[0], run(model, x, jnp.full(2, 0.3), y)[0]
  )


@pytest.mark.slow
def test_images_of_a_batch_do_not_mix(assert_close):
  model = tiny(0.2)
  x, t, y = inputs(batch=3)
  alone = run(model, x[1:2], t[1:2], y[1:2])[0]
  assert_close(run(model, x, t, y)[0][1:2], alone, 1e-5)


@pytest.mark.slow
def test_bfloat16_computes_near_float32(assert_close):
  x, t, y = inputs()
  exact = run(tiny(0.05), x, t, y)[0]
  model = tiny(0.05, dtype='bfloat16')
  rough = run(model, x, t, y)[0]
  assert rough.dtype == jnp.float32
  weights = jax.tree.leaves(weights_of(model))
  assert {a.dtype for a in weights} == {jnp.dtype('float32')}
  assert_close(rough, exact, 0.05)
  assert jnp.abs(rough - exact).max() > 0


@pytest.mark.parametrize('overrides', ABLATIONS, ids=str)
def test_every_weight_names_each_of_its_axes(overrides):
  model = abstract_model(dataclasses.replace(TINY, **overrides))
  weights = weights_of(model)
  axes = jax.tree.map(lambda _, names: names, weights, axes_of(model))
  jax.tree.map(lambda w, names: spec(names), weights, axes_of(model))
  flat = jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple))
  assert [w.ndim for w in jax.tree.leaves(weights)] == [len(a) for a in flat]


@pytest.mark.parametrize(
  'overrides, named',
  [
    (dict(width=100, heads=16), 'such as 128'),
    (dict(heads=0), 'heads'),
    (dict(pixel_attention_width=36, pixel_heads=2), 'such as 32'),
    (dict(patch_depth=0), 'patch_depth'),
    (dict(pixel_width=6), 'pixel_width'),
    (dict(pixel_attention='channels'), 'pixel_attention'),
    (dict(norm='batch'), "('rms', 'layer', 'plain')"),
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
