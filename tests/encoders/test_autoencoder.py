"""The autoencoder against arrays of diffusers' class AutoencoderKL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.encoders.autoencoder import (
  AutoencoderConfig,
  abstract_autoencoder,
  autoencoder_flops,
  posterior,
)
from pixeldit_jax.encoders.tiles import by_tiles
from pixeldit_jax.errors import UserError

SIZES = ['32x32', '32x48']


@pytest.fixture(scope='module')
def model(golden):
  weights = golden('rivals/sdvae').below('w')
  return from_official(weights, norm_num_groups=4)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
def test_encoding_is_the_public_codes(golden, assert_close, model, size):
  arrays = golden('rivals/sdvae').below(size)
  found = jax.jit(model.encode)(nhwc(arrays['x']))
  assert_close(found.mean, nhwc(arrays['mean']))
  assert_close(found.logvar, nhwc(arrays['logvar']))
  assert_close(found.std, nhwc(arrays['std']))
  sample = found.sample(nhwc(arrays['eps']))
  assert_close(sample, nhwc(arrays['sample']))
  scaled = model.config.scale * sample
  assert_close(scaled, nhwc(arrays['sample_scaled']))
  reconstructed = model.decode(found.mean)
  assert_close(reconstructed, nhwc(arrays['reconstruction_of_mode']))


@pytest.mark.parametrize('size', SIZES)
def test_decoding_is_the_public_codes(golden, assert_close, model, size):
  arrays = golden('rivals/sdvae').below(size)
  decoded = jax.jit(model.decode)(nhwc(arrays['z']))
  assert_close(decoded, nhwc(arrays['decoded']))
  assert_close(nhwc(arrays['z_scaled']) / model.config.scale, nhwc(arrays['z']))


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
def test_every_part_is_the_public_codes(golden, assert_close, model, size):
  arrays = golden('rivals/sdvae').below(size)
  encoder, decoder = model.encoder, model.decoder
  x = encoder.conv_in(nhwc(arrays['x']))
  assert_close(x, nhwc(arrays['enc_conv_in']))
  for i, level in enumerate(encoder.down_blocks):
    x = level(x)
    assert_close(x, nhwc(arrays[f'enc_down_{i}']))
  assert_close(encoder.mid_block(x), nhwc(arrays['enc_mid']))
  assert_close(
    model.quant_conv(nhwc(arrays['enc_out'])), nhwc(arrays['moments'])
  )
  z = model.post_quant_conv(nhwc(arrays['z']))
  assert_close(z, nhwc(arrays['post_quant']))
  z = decoder.mid_block(decoder.conv_in(z))
  assert_close(z, nhwc(arrays['dec_mid']))
  for i, level in enumerate(decoder.up_blocks):
    z = level(z)
    assert_close(z, nhwc(arrays[f'dec_up_{i}']))


def test_the_log_variance_is_clamped(golden, assert_close):
  arrays = golden('rivals/sdvae').below('clamp')
  found = posterior(nhwc(arrays['moments']))
  assert_close(found.mean, nhwc(arrays['mean']))
  assert_close(found.logvar, nhwc(arrays['logvar']))
  assert_close(found.std, nhwc(arrays['std']))
  assert_close(found.kl(), arrays['kl'])


def test_it_has_the_weights_of_the_public_one():
  def count(part):
    state = nnx.to_pure_dict(nnx.state(part, nnx.Param))
    return sum(a.size for a in jax.tree.leaves(state))

  model = abstract_autoencoder(AutoencoderConfig())
  assert count(model) == 83_653_863
  assert count(model.encoder) + count(model.quant_conv) == 34_163_664
  assert count(model.decoder) == 49_490_179


def test_operations_are_the_published_ones():
  """Those of the public code at 256 pixels, counted on its meta device."""
  found = autoencoder_flops(AutoencoderConfig(), 256)
  np.testing.assert_allclose(found, (272.72e9, 622.19e9), rtol=1e-4)


def test_tiles_are_exact_where_nothing_else_is_seen():
  x = jax.random.normal(jax.random.key(0), (2, 20, 33, 3))
  double = lambda a: jnp.repeat(jnp.repeat(a, 2, 1), 2, 2)  # noqa: E731
  found = by_tiles(double, x, 8, 3)
  np.testing.assert_allclose(found, double(x), atol=1e-6)
  halve = lambda a: a[:, ::2, ::2]  # noqa: E731
  found = by_tiles(halve, x[:, :, :32], 8, 4)
  np.testing.assert_allclose(found, halve(x[:, :, :32]), atol=1e-6)


def test_tiles_decode_a_large_picture_nearly_as_one(golden, model):
  z = jax.random.normal(jax.random.key(0), (1, 12, 16, 4))
  whole = jax.jit(model.decode)(z)
  tiled = by_tiles(jax.jit(model.decode), z, 8, 4)
  assert tiled.shape == whole.shape
  assert np.corrcoef(np.ravel(whole), np.ravel(tiled))[0, 1] > 0.8


@pytest.mark.parametrize(
  'call, told',
  [
    (lambda m: m.encode(jnp.zeros((1, 20, 32, 3))), 'of 20 x 32 x 3'),
    (lambda m: m.decode(jnp.zeros((1, 4, 4, 16))), 'latents of 16 channels'),
    (
      lambda m: by_tiles(m.decode, jnp.zeros((1, 4, 4, 4)), 8, 2),
      'tiles of 8 that overlap by 2, of 4 x 4',
    ),
  ],
)
def test_what_it_does_not_take_is_told(model, call, told):
  with pytest.raises(UserError, match=told):
    call(model)
