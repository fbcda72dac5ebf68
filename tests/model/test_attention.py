"""Attention: every kernel against float64, and the switch between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pixeldit_jax.model import attention
from pixeldit_jax.model.attention import attend, choose
from pixeldit_jax.model.kernels import RESIDUALS, flash, splash
from pixeldit_jax.model.kernels.blockwise import blockwise_attention
from pixeldit_jax.model.kernels.cudnn import cudnn_attention
from pixeldit_jax.model.kernels.flash import flash_attention
from pixeldit_jax.model.kernels.splash import splash_attention
from pixeldit_jax.model.kernels.xla import xla_attention

KERNELS = {
  'xla': xla_attention,
  'blockwise': functools.partial(blockwise_attention, block=32),
  'splash': functools.partial(splash_attention, interpret=True),
  'flash': functools.partial(flash_attention, interpret=True),
  # What there is around the kernel: the mask as an order of keys and a length.
  'cudnn': functools.partial(cudnn_attention, implementation='xla'),
}


def example(L, S, N, K, dtype=jnp.float32, batch=2):
  """q, k, v, the gradient of the output, and a mask; item 1 has no key."""
  rng = np.random.default_rng(0)
  shapes = [(batch, L, N, K), (batch, S, N, K), (batch, S, N, K)]
  arrays = [rng.standard_normal(s) for s in (*shapes, shapes[0])]
  mask = rng.random((batch, S)) < 0.6
  mask[0, 0], mask[1] = True, False
  return *(jnp.asarray(a, dtype) for a in arrays), jnp.asarray(mask)


def reference(q, k, v, do, mask=None):
  """The output and the gradients of q, k, v, in float64 NumPy."""
  q, k, v, do = (np.asarray(x, np.float64) for x in (q, k, v, do))
  scale = q.shape[-1] ** -0.5
  scores = np.einsum('blnk,bsnk->bnls', q, k) * scale
  if mask is not None:
    scores = np.where(np.asarray(mask)[:, None, None], scores, -np.inf)
  highest = np.maximum(scores.max(-1, keepdims=True), -1e300)
  p = np.exp(scores - highest)
  p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
  dp = np.einsum('blnk,bsnk->bnls', do, v)
  ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
  return (
    np.einsum('bnls,bsnk->blnk', p, v),
    np.einsum('bnls,bsnk->blnk', ds, k),
    np.einsum('bnls,blnk->bsnk', ds, q),
    np.einsum('bnls,blnk->bsnk', p, do),
  )


@functools.cache
def program(kernel):
  """What `reference` does, by a kernel."""

  def run(q, k, v, do, mask):
    o, backward = jax.vjp(lambda *x: kernel(*x, mask), q, k, v)
    return o, *backward(do)

  return jax.jit(run)


def outputs(kernel, q, k, v, do, mask=None):
  return program(kernel)(q, k, v, do, mask)


def assert_all_close(actual, expected, tolerance):
  for a, e in zip(actual, expected):
    a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
    assert np.abs(a - e).max() < tolerance * np.abs(e).max()


@pytest.mark.slow
@pytest.mark.parametrize(
  'L, S, N, K, masked',
  [(100, 70, 3, 16, False), (70, 140, 2, 72, True)],
)
@pytest.mark.parametrize('name', KERNELS)
def test_kernel_is_attention_in_float32(name, L, S, N, K, masked):
  *arrays, mask = example(L, S, N, K)
  mask = mask if masked else None
  actual = outputs(KERNELS[name], *arrays, mask)
  assert_all_close(actual, reference(*arrays, mask), 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name', KERNELS)
def test_kernel_is_attention_in_bfloat16(name):
  *arrays, mask = example(70, 140, 2, 64, jnp.bfloat16)
  # The stand-in for cuDNN, jax.nn's XLA version, mixes types by itself.
  rule = 'standard' if name == 'cudnn' else 'strict'
  with jax.numpy_dtype_promotion(rule):
    actual = outputs(KERNELS[name], *arrays, mask)
  assert all(x.dtype == jnp.bfloat16 for x in actual)
  assert_all_close(actual, reference(*arrays, mask), 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize('gradients, calls', [(2**20, 1), (1, 2)])
def test_flash_attention_with_several_blocks(monkeypatch, gradients, calls):
  """Two of queries, three of keys, two of heads; gradients in two calls."""
  monkeypatch.setattr(flash, 'QUERIES', 128)
  monkeypatch.setattr(flash, 'KEYS', 256)
  monkeypatch.setattr(flash, 'SCORES', 2 * 128 * 256)
  monkeypatch.setattr(flash, 'GRADIENTS', gradients)
  jax.clear_caches()  # they know a kernel by other things than these
  *arrays, some = example(200, 700, 4, 16)
  for mask in (None, some):
    actual = outputs(KERNELS['flash'], *arrays, mask)
    assert_all_close(actual, reference(*arrays, mask), 5e-6)
  text = str(jax.make_jaxpr(program(KERNELS['flash']))(*arrays, some))
  assert text.count('pallas_call[') == 1 + calls


@pytest.mark.parametrize('parts, calls', [(32, 2), (2, 3)])
def test_splash_attention_with_several_blocks_of_keys(
  monkeypatch, parts, calls
):
  """Their gradients come from one kernel, or from two."""
  monkeypatch.setattr(splash, 'KEYS', 1024)
  monkeypatch.setattr(splash, 'PARTS', parts)
  jax.clear_caches()
  *arrays, mask = example(70, 1100, 1, 16)  # three blocks of 512
  actual = outputs(KERNELS['splash'], *arrays, mask)
  assert_all_close(actual, reference(*arrays, mask), 5e-6)
  text = str(jax.make_jaxpr(program(KERNELS['splash']))(*arrays, mask))
  assert text.count('pallas_call[') == calls


def test_flash_attention_pads_little():
  """Text of 300 tokens and 1,024 or 4,096 patches."""
  padded = [
    [
      -(-n // flash.block_size(n, most)) * flash.block_size(n, most)
      for n in (64, 1024, 1324, 4396)
    ]
    for most in (flash.QUERIES, flash.KEYS)
  ]
  assert padded == [[128, 1024, 1536, 4608], [128, 1024, 1408, 4480]]


@pytest.mark.slow
@pytest.mark.parametrize('name', KERNELS)
def test_masked_keys_are_as_good_as_absent(name):
  """Whatever they hold; and without any key, zeros and no gradient."""
  q, k, v, do, mask = example(40, 50, 2, 16)
  there = mask[..., None, None]
  other = [jnp.where(there, x, 100.0) for x in (k, v)]
  actual = outputs(KERNELS[name], q, k, v, do, mask)
  changed = outputs(KERNELS[name], q, *other, do, mask)
  assert_all_close(changed[:1], actual[:1], 1e-6)
  assert all(not x[1].any() for x in actual)
  assert all(not jnp.where(there, 0, x).any() for x in changed[2:])


@pytest.mark.parametrize('name', ['xla', 'blockwise', 'splash', 'flash'])
def test_large_scores_do_not_overflow(name):
  q, k, v, do, mask = example(40, 50, 1, 16)
  o, *gradients = outputs(KERNELS[name], q * 1e3, k, v, do, mask)
  assert_all_close([o], reference(q * 1e3, k, v, do, mask)[:1], 1e-4)
  assert all(jnp.isfinite(x).all() for x in gradients)


def test_blockwise_needs_no_matrix_of_65536_squared():
  """Its program, forward and backward, holds 17 GB of scores nowhere."""
  q = jax.ShapeDtypeStruct((1, 65536, 1, 16), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, 65536), bool)

  def run(q, k, v, mask):
    return attend(q, k, v, mask_BS=mask)

  memory = program(run).lower(q, q, q, q, mask).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 64 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, spared', [('xla', 0), ('blockwise', 2), ('splash', 2), ('flash', 2)]
)
def test_named_residuals_spare_the_second_forward_pass(
  name, spared, monkeypatch
):
  """Under remat, products whose results are kept are not computed again."""
  monkeypatch.setattr(flash, 'KEPT', 128)
  monkeypatch.setattr(splash, 'KEPT', 128)
  jax.clear_caches()
  *arrays, _ = example(128, 128, 1, 16)

  def products(policy):
    def run(q, k, v, do):
      def block(x, _):
        return jnp.tanh(KERNELS[name](x, k, v)), None

      block = jax.checkpoint(block, policy=policy, prevent_cse=False)
      layers = functools.partial(jax.lax.scan, block, length=2)
      return jax.vjp(lambda q: layers(q)[0], q)[1](do)

    return jax.jit(run).lower(*arrays).compile().as_text().count(' dot(')

  policies = jax.checkpoint_policies
  kept = products(policies.save_only_these_names(RESIDUALS))
  assert products(policies.nothing_saveable) - kept == spared


def on(platform):
  """A mesh of one device of a platform that this machine lacks."""
  device = AbstractDevice(device_kind='any', num_cores=1, platform=platform)
  axis = (AxisType.Auto,)
  return AbstractMesh((1,), ('data',), axis, abstract_device=device)


def test_kernels_by_platform_length_and_type():
  short, long = (255, 256), (65536, 65536)
  expected = {
    ('cpu', short): 'xla',
    ('cpu', (256, 256)): 'xla',
    ('cpu', long): 'blockwise',
    ('tpu', short): 'xla',
    ('tpu', (256, 256)): 'splash',
    ('tpu', long): 'splash',
    ('gpu', short): 'cudnn',
    ('gpu', long): 'cudnn',
  }
  for (platform, lengths), name in expected.items():
    assert choose(platform, *lengths, 72, jnp.bfloat16) == name
  assert choose('gpu', *short, 72, jnp.float32) == 'xla'
  assert choose('gpu', *long, 256, jnp.bfloat16) == 'blockwise'


@pytest.mark.parametrize(
  'platform, name', [('tpu', 'splash'), ('gpu', 'cudnn'), ('cpu', 'blockwise')]
)
def test_platform_is_that_of_the_mesh(platform, name, monkeypatch):
  def kernel(q, k, v, mask):
    raise RuntimeError('chosen')

  monkeypatch.setitem(attention.KERNELS, name, kernel)
  q = jax.ShapeDtypeStruct((1, 2048, 1, 64), jnp.bfloat16)
  with pytest.raises(RuntimeError, match='chosen'):
    jax.eval_shape(functools.partial(attend, mesh=on(platform)), q, q, q)
  with (
    jax.sharding.use_abstract_mesh(on(platform)),
    pytest.raises(RuntimeError, match='chosen'),
  ):
    jax.eval_shape(attend, q, q, q)


@pytest.mark.usefixtures('unchecked_signatures')
@pytest.mark.parametrize(
  'changes, message',
  [
    ({'implementation': 'ring'}, "'ring' is not known; use one of auto, "),
    ({'implementation': 'splash'}, "'splash' runs on tpu, not on cpu"),
    ({'implementation': 'flash'}, "'flash' runs on tpu, not on cpu"),
    ({'implementation': 'cudnn'}, 'float32, 16, on cpu'),
    ({'k': (1, 8, 3, 16)}, r'\(1, 8, 3, 16\)'),
    ({'k': (1, 8, 2, 8), 'v': (1, 8, 2, 8)}, r'\(1, 8, 2, 8\)'),
    ({'v': (1, 9, 2, 16)}, r'\(1, 9, 2, 16\)'),
    ({'mask_BS': jnp.ones((1, 9), bool)}, r'\(1, 9\)'),
    ({'mask_BS': jnp.ones((1, 8))}, 'booleans'),
    ({'q': jnp.zeros((1, 8, 2, 16), jnp.bfloat16)}, 'bfloat16'),
  ],
)
def test_bad_input_is_one_clear_error(changes, message):
  arguments = dict.fromkeys('qkv', (1, 8, 2, 16)) | changes
  arrays = [arguments.pop(name) for name in 'qkv']
  arrays = [jnp.zeros(x) if isinstance(x, tuple) else x for x in arrays]
  with pytest.raises(ValueError, match=message):
    attend(*arrays, **arguments)
