"""Text and image tokens in one attention: masks, meshes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import (
  PixelDiT,
  abstract_model,
  axes_of,
  weights_of,
)
from pixeldit_jax.typing import TextCondition

CONFIG = ModelConfig(
  num_classes=0,
  text_width=6,
  text_tokens=8,
  text_mask=True,
  patch_size=4,
  width=48,
  heads=2,
  patch_depth=2,
  pixel_width=8,
  pixel_depth=1,
  pixel_attention_width=16,
  pixel_heads=4,
  time='noise',
  zero_modulation=False,
)


@pytest.fixture(scope='module')
def weights():
  """All random: the last layer would start at zero."""
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda a: random.normal(0, 0.5, a.shape).astype(a.dtype),
    weights_of(abstract_model(CONFIG)),
  )


@jax.jit
def forward(weights, x, y):
  graphdef = nnx.graphdef(abstract_model(CONFIG))
  return nnx.merge(graphdef, weights)(x, 0.3, y)


def inputs(batch=2):
  keys = jax.random.split(jax.random.key(2))
  text = jax.random.normal(keys[1], (batch, 8, 6))
  mask = jnp.arange(8) < jnp.array([3, 8] * (batch // 2))[:, None]
  x = jax.random.normal(keys[0], (batch, 8, 16, 3))
  return x, TextCondition(text, mask)


def test_what_the_mask_hides_is_not_seen_and_the_rest_is(weights):
  x, y = inputs()
  v = forward(weights, x, y)
  hidden = y._replace(tokens=y.tokens.at[0, 3:].add(1.0))
  np.testing.assert_allclose(forward(weights, x, hidden), v, atol=1e-5)
  for token in (0, 2):
    seen = y._replace(tokens=y.tokens.at[0, token].add(1.0))
    change = jnp.abs(forward(weights, x, seen) - v).max((1, 2, 3))
    assert change[0] > 1e-4 and change[1] == 0
  swapped = y._replace(tokens=y.tokens.at[0, :2].set(y.tokens[0, 1::-1]))
  assert jnp.abs(forward(weights, x, swapped) - v)[0].max() > 1e-4


@pytest.mark.slow
def test_a_mesh_changes_nothing(weights, assert_close):
  x, y = inputs(4)
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, sequence=2, tensor=2))
  places = sharding.weight_shardings(axes_of(abstract_model(CONFIG)), mesh)
  with sharding.use(mesh):
    split = jax.jit(
      forward.__wrapped__,
      in_shardings=(places, *[sharding.batch_sharding(mesh)] * 2),
    )(weights, x, y)
  assert_close(split, forward(weights, x, y), 1e-5)


@pytest.mark.slow
def test_weights_start_as_in_the_release():
  weights = weights_of(PixelDiT(CONFIG, rngs=nnx.Rngs(0)))
  assert abs(float(weights['text_embed']['positions'].std()) - 1) < 0.1
  assert not jnp.any(weights['output']['proj']['kernel'])
  for block in weights['patch_blocks'].values():
    adaln = block['adaln']['kernel']
    assert abs(float(adaln.std()) - (3 * 48) ** -0.5) < 0.01


def test_a_missing_mask_and_a_text_too_long_are_refused(weights):
  x, y = inputs()
  with pytest.raises(ValueError, match='without a mask'):
    forward(weights, x, TextCondition(y.tokens))
  long = jax.tree.map(lambda a: jnp.concatenate([a, a], 1), y)
  with pytest.raises(ValueError, match='16 tokens: the network takes 8'):
    forward(weights, x, long)


@pytest.mark.parametrize(
  'overrides, named',
  [
    (dict(num_classes=10), 'class or a text'),
    (dict(pixel_heads=3), 'pixel_attention_width=16'),
    (dict(time='sigma'), "('unit', 'noise')"),
  ],
)
def test_impossible_texts_are_refused(overrides, named):
  with pytest.raises(ValueError) as error:
    ModelConfig(**(vars(CONFIG) | overrides))
  assert named in str(error.value)
