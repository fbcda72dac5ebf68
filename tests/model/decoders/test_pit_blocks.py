"""Attention over all pixel tokens against plain NumPy, and its memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.pit_blocks import PixelAttention, pixel_rotary
from pixeldit_jax.model.embed import patchify, unpatchify
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model, weights_of

TINY = dict(num_classes=10, patch_depth=1, pixel_depth=1)


def rotated(x_THWNK):
  """Each pair (i, i + K/2) turned by its angle, for x [H, W, N, K]."""
  H, W, _, K = x_THWNK.shape
  place = np.stack(
    np.broadcast_arrays(
      np.linspace(0, 16, W)[None, :], np.linspace(0, 16, H)[:, None]
    ),
    -1,
  )
  frequencies = 10000.0 ** (-4 * np.arange(K // 4) / K)
  angles = place[:, :, None, :] * frequencies[:, None]  # x and y in turn
  angles = angles.reshape(H, W, 1, K // 2)
  a, b = np.split(x_THWNK, 2, -1)
  turn = np.cos(angles), np.sin(angles)
  return np.concatenate(
    [a * turn[0] - b * turn[1], a * turn[1] + b * turn[0]], -1
  )


def dense(weights, z_HWE):
  """The attention of one image in float64, its pixels row by row."""
  w = jax.tree.map(lambda a: np.asarray(a, np.float64), weights)
  h = z_HWE @ w['compact']['kernel'] + w['compact']['bias']
  heads = -1, w['attn']['q_norm']['weight'].size
  qkv = np.einsum('HWA,ASB->SHWB', h, w['attn']['qkv']['kernel'])
  qkv = qkv.reshape(*qkv.shape[:3], *heads)

  def normed(x, name):
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return rotated(x * w['attn'][name]['weight'])

  q, k, v = normed(qkv[0], 'q_norm'), normed(qkv[1], 'k_norm'), qkv[2]
  q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
  p = np.exp(np.einsum('TNK,SNK->NTS', q, k) * q.shape[-1] ** -0.5)
  o = np.einsum('NTS,SNK->TNK', p / p.sum(-1, keepdims=True), v)
  proj = w['attn']['proj']
  o = o.reshape(o.shape[0], -1) @ proj['kernel'] + proj['bias']
  o = o @ w['expand']['kernel'] + w['expand']['bias']
  return o.reshape(z_HWE.shape)


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind, width, heads', [('channel', 16, 1), ('channel', 16, 2), ('full', 0, 0)]
)
@pytest.mark.parametrize('kernel', ['xla', 'blockwise'])
def test_all_pixels_attend_as_in_float64(
  assert_close, kind, width, heads, kernel
):
  config = ModelConfig(
    patch_size=4,
    width=24,
    heads=3,
    pixel_width=8,
    pixel_attention=kind,
    pixel_attention_width=width,
    pixel_heads=heads,
    attention=kernel,
  )
  grid = 2, 3
  attention = PixelAttention(config, rngs=nnx.Rngs(0))
  scale = jnp.linspace(0.5, 2, attention.attn.q_norm.weight.shape[0])
  attention.attn.q_norm.weight[...] = scale
  z_BHWE = jax.random.normal(jax.random.key(1), (2, 8, 12, 8))
  z_BLPE = attention(patchify(z_BHWE, 4), pixel_rotary(config, grid))
  actual = unpatchify(z_BLPE, grid)
  weights = weights_of(attention)
  for i in range(2):
    expected = dense(weights, np.asarray(z_BHWE[i], np.float64))
    assert_close(actual[i], expected, 1e-5)


def make_loss(**model):
  """f(weights, x, t, y) -> mean square of the velocity, and random inputs."""
  config = ModelConfig(**TINY, **model)
  graphdef = nnx.graphdef(abstract_model(config))

  def loss(weights, x, t, y):
    return jnp.mean(nnx.merge(graphdef, weights)(x, t, y) ** 2)

  return config, loss


def sizes_in(program: str):
  """The number of elements of every array in a StableHLO or HLO text."""
  shapes = re.findall(r'tensor<((?:\d+x)+)[a-z]', program)
  shapes = [s.split('x')[:-1] for s in shapes]
  shapes += [s.split(',') for s in re.findall(r'\w\[([\d,]+)\]', program)]
  return [np.prod([int(n) for n in s]) for s in shapes]


@pytest.mark.parametrize('kind', ['channel', 'full'])
def test_no_array_holds_the_scores_of_all_pairs(kind):
  """Forward and backward, 2,048 pixel tokens."""
  config, loss = make_loss(
    patch_size=4,
    width=16,
    heads=1,
    pixel_width=4,
    pixel_attention=kind,
    pixel_attention_width=16,
  )
  weights = weights_of(abstract_model(config))
  arguments = (
    jax.ShapeDtypeStruct((1, 32, 64, 3), 'float32'),
    jax.ShapeDtypeStruct((1,), 'float32'),
    jax.ShapeDtypeStruct((1,), 'int32'),
  )
  program = jax.jit(jax.grad(loss)).lower(weights, *arguments).as_text()
  # The largest are the scores of a block of 512.
  assert max(sizes_in(program)) == 512**2


@pytest.mark.slow
def test_65536_pixels_over_eight_devices_are_as_on_one(assert_close, optimised):
  """The whole network at 256 x 256, with the loss and every gradient."""
  config, loss = make_loss(
    width=32,
    heads=2,
    pixel_width=4,
    pixel_attention='channel',
    pixel_attention_width=8,
  )

  @jax.jit
  def make():
    weights = weights_of(PixelDiT(config, rngs=nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    normal = jax.random.normal
    return treedef.unflatten(
      [a + 0.05 * normal(key, a.shape) for a, key in zip(leaves, keys)]
    )

  # Nothing is zero, as so much is at the start.
  weights = make()
  x = jax.random.normal(jax.random.key(2), (1, 256, 256, 3))
  arguments = weights, x, jnp.float32([0.3]), jnp.int32([1])
  run = jax.value_and_grad(loss)
  expected = jax.jit(run, compiler_options=optimised)(*arguments)
  mesh = sharding.make_mesh({'sequence': 8})
  with sharding.use(mesh):
    compiled = jax.jit(run).lower(*arguments).compile(optimised)
    actual = compiled(*arguments)
  # A device's own 8,192 queries against all keys would be 2 GiB.
  assert compiled.memory_analysis().temp_size_in_bytes < 256 * 2**20
  assert max(sizes_in(compiled.as_text())) < 8192 * 65536 / 16
  assert float(actual[0]) == pytest.approx(float(expected[0]), rel=1e-5)
  check = functools.partial(assert_close, tolerance=1e-5)
  jax.tree.map(check, actual[1], expected[1])
