"""A network on latents: stored once, trained on, drawn and decoded."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from pixeldit_jax.compare import comparison
from pixeldit_jax.compare.plan import Network
from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.convert.autoencoder import to_autoencoder
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.data import transforms
from pixeldit_jax.data.prepare import latents, prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders import tiles
from pixeldit_jax.encoders.autoencoder import Autoencoder, AutoencoderConfig
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.inputs import open_data
from pixeldit_jax.train.latents import draw_latents
from pixeldit_jax.train.loop import train

SMALL = AutoencoderConfig(widths=(8, 8), blocks=1, groups=4)


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """A folder with an autoencoder, and shards with its latents."""
  folder = tmp_path_factory.mktemp('latents')
  (folder / 'in').mkdir()
  rng = np.random.default_rng(0)
  for i in range(16):
    pixels = rng.integers(0, 256, (20, 16, 3), np.uint8)
    Image.fromarray(pixels).save(folder / 'in' / f'{i:02d}.png')
  settings = PrepareSettings(f'images:{folder}/in', 16, shard_size=6)
  out = str(folder / 'out')
  prepare.prepare(settings, out, num_processes=1)
  model = Autoencoder(SMALL, rngs=nnx.Rngs(0))
  write_safetensors(
    folder / 'diffusion_pytorch_model.safetensors', to_autoencoder(model)
  )
  (folder / 'config.json').write_text(json.dumps(dict(norm_num_groups=4)))
  moments = latents.Moments(str(folder))
  meta = moments.describe(16)
  manifest = latents.store_latents(out, moments, meta, batch_size=8)
  assert manifest['shape'] == [8, 8, 16]
  assert latents.store_latents(out, moments, meta) == manifest  # once
  again = pickle.loads(pickle.dumps(moments))
  assert again.describe(16) == meta
  return folder, moments.autoencoder


def of_latents(folder, family='dit', **more):
  config = get_config()
  config.model.update(preset(family))
  make_debug(config)
  config.model.update(num_classes=0, in_channels=4, patch_size=2, scan=False)
  config.data.update(source=f'shards:{folder}/out', resolution=8, flip=True)
  config.latents.autoencoder = str(folder)
  config.sampler.update(steps=2, guidance=1.0)
  if family == 'dit':
    config.sampler.solver = 'ddpm'
  config.steps = 1
  config.optimizer.warmup_steps = 0
  config.update_from_flattened_dict(more)
  return config


@pytest.mark.slow
def test_what_is_stored_is_what_the_autoencoder_gives(stored, assert_close):
  folder, autoencoder = stored
  source = open_source(f'shards:{folder}/out', ['latents'])
  example = source[3]
  pixels = np.asarray(transforms.decode(example['image']))[None]
  found = jnp.asarray(example['arrays']['latents'])[None]
  for mirrored in (False, True):
    data = transforms.normalize(pixels[:, :, ::-1] if mirrored else pixels)
    expected = autoencoder.encode(data)
    key = jax.random.key(1)
    drawn = draw_latents(key, found, jnp.full((1, 1, 1, 1), mirrored), 0.5)
    noise = jax.random.normal(key, expected.mean.shape)
    assert_close(drawn, 0.5 * expected.sample(noise), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['dit', 'pixeldit'])
def test_any_network_trains_on_latents_and_draws_pixels(
  stored, family, tmp_path
):
  folder, autoencoder = stored
  context = RunContext.build(of_latents(folder, family), jax.devices()[:1])
  state = train(context, str(tmp_path / 'run'))
  assert int(state.step) == 1 and int(state.bad_steps) == 0
  sampler = Sampler(context, batch_size=2, return_trajectory=True)
  labels = np.zeros(2, np.int32)
  (images,) = sampler.sample(state.ema, np.arange(2), labels)
  assert images.shape == (2, 3, 16, 16, 3)
  without = context.without_autoencoder()
  assert without.image_shape(8, 8) == (8, 8, 4)
  assert context.image_shape(8, 8) == (16, 16, 3)
  key = jax.random.key(context.config.seed)
  noise = jax.vmap(
    lambda i: jax.random.normal(jax.random.fold_in(key, i), (8, 8, 4))
  )(jnp.arange(2))
  decoded = autoencoder.decode(noise / context.config.latents.scale)
  expected = np.asarray(transforms.to_uint8(decoded)).astype(int)
  difference = expected - images[:, 0]
  assert np.abs(difference).max() <= 1


@pytest.mark.slow
def test_samples_are_decoded_by_tiles(stored):
  """As `tiles.decode` does it, which is not what one tile gives."""
  folder, autoencoder = stored
  context = RunContext.build(of_latents(folder), jax.devices()[:1])
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda a: random.normal(0, 0.1, a.shape).astype(a.dtype),
    weights_of(abstract_model(context.model)),
  )
  labels = np.zeros(2, np.int32)

  def draw(tile, **options):
    config = context.config.copy_and_resolve_references()
    config.sampler.decode_tile = tile
    one = dataclasses.replace(context, config=config)
    sampler = Sampler(one, batch_size=2, **options)
    (images,) = sampler.sample(weights, np.arange(2), labels)
    return images.astype(int)

  whole, tiled = draw(0), draw(4)
  assert whole.shape == tiled.shape == (2, 16, 16, 3)
  assert np.abs(whole - tiled).max() > 1
  assert (draw(8) == whole).all()  # one tile holds all
  assert np.corrcoef(whole.ravel(), tiled.ravel())[0, 1] > 0.8
  # Noise is the first state of a trajectory.
  key = jax.random.key(context.config.seed)
  noise = jax.vmap(
    lambda i: jax.random.normal(jax.random.fold_in(key, i), (8, 8, 4))
  )(jnp.arange(2))
  scaled = noise / context.config.latents.scale
  expected = transforms.to_uint8(tiles.decode(autoencoder, scaled, 4))
  first = draw(4, return_trajectory=True)[:, 0]
  assert np.abs(first - np.asarray(expected).astype(int)).max() <= 1


def test_networks_of_latents_are_compared_with_those_of_pixels(stored):
  folder, _ = stored
  pixels = of_latents(
    folder,
    'pixeldit',
    **{
      'latents.autoencoder': '',
      'model.in_channels': 3,
      'data.resolution': 16,
    },
  )
  both = [Network('latents', of_latents(folder)), Network('pixels', pixels)]
  assert comparison.data_of(both)['resolution'] == 16
  pixels.data.resolution = 8
  with pytest.raises(UserError, match='pixels has .* at 8'):
    comparison.data_of(both)


def test_latents_by_tiles_say_so(stored, assert_close):
  folder, autoencoder = stored
  by_tiles = latents.Moments(str(folder), tile=8)
  assert by_tiles.describe(16)['tile'] == 8
  assert 'tile' not in latents.Moments(str(folder)).describe(16)
  assert pickle.loads(pickle.dumps(by_tiles)).tile == 8
  images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
  found = by_tiles(images)
  expected = tiles.encode(autoencoder, transforms.normalize(images), 8)
  assert_close(found[..., :4], expected.mean, 1e-3)
  whole = autoencoder.encode(transforms.normalize(images)).mean
  assert np.abs(expected.mean - whole).max() > 1e-3
  with pytest.raises(UserError, match='--latent_tile=7: give a multiple of 2'):
    latents.Moments(str(folder), tile=7).describe(16)


@pytest.mark.parametrize(
  'change, told',
  [
    ({'latents.scale': 1.0}, 'have scale 0.18215'),
    ({'model.in_channels': 8}, 'have channels 4'),
    ({'data.resolution': 4}, 'have side 8'),
    ({'latents.autoencoder': 'another/vae'}, "latents.autoencoder='another"),
    ({'latents.autoencoder': ''}, 'model.in_channels=4'),
  ],
)
def test_latents_of_another_kind_are_one_line(stored, change, told):
  config = of_latents(stored[0], **change)
  with pytest.raises(UserError) as error:
    open_data(config)
  assert told in str(error.value) and '\n' not in str(error.value)


def test_what_latents_do_not_go_with_is_refused(stored):
  folder, _ = stored
  with pytest.raises(UserError, match='it needs pixels'):
    validate(of_latents(folder, 'pixeldit', **{'data.held_out': 2}))
  with pytest.raises(UserError, match='a multiple of 2'):
    latents.Moments(str(folder)).describe(15)
  pixels = of_latents(folder, **{'latents.autoencoder': ''})
  pixels.sampler.decode_tile = 4
  with pytest.raises(UserError, match='decode_tile=4: nothing is decoded'):
    validate(pixels)
  config = of_latents(folder, **{'model.in_channels': 2})
  with pytest.raises(UserError, match='of 4 channels, but model.in_channels=2'):
    Sampler(RunContext.build(config, jax.devices()[:1])).numbers()
