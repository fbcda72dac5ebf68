"""Networks that see the latents of an autoencoder: `config.latents`."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pixeldit_jax.data.precomputed_arrays import LATENTS
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.autoencoder import posterior
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Bool, Float, Key


def latent_arrays(config: ConfigDict) -> tuple[str, ...]:
  """The names of the arrays that a run needs of its data for latents."""
  return (LATENTS,) if config.latents.autoencoder else ()


def check_channels(config: ConfigDict, source: Source) -> int:
  """Pixels of a side of an image for one of what the network sees.

  Raises:
    UserError: latents of another autoencoder, scale, width or side than the
      run's; or other channels than those of images.
  """
  latents, channels = config.latents, config.model.in_channels
  if not latents.autoencoder:
    if channels != 3:
      raise UserError(
        f'model.in_channels={channels}: images are read as RGB, so that a '
        'network is trained with model.in_channels=3, or on latents: '
        'latents.autoencoder names what they were made by.'
      )
    return 1
  meta = source.arrays[LATENTS].meta
  for name, asked in (
    ('autoencoder', latents.autoencoder),
    ('scale', latents.scale),
    ('channels', channels),
    ('side', config.data.resolution),
  ):
    key = {'channels': 'model.in_channels', 'side': 'data.resolution'}.get(
      name, f'latents.{name}'
    )
    if meta[name] != asked:
      raise UserError(
        f'{key}={asked!r}, but the latents of data.source='
        f'{config.data.source!r} have {name} {meta[name]!r}: set it so, or '
        'store others (pixeldit prepare-data --latents).'
      )
  return meta['factor']


def draw_latents(
  key: Key,
  moments: Float[Array, 'B h w M'],
  mirrored: Bool[Array, 'B 1 1 1'],
  scale: float,
) -> Float[Array, 'B h w C']:
  """Latents of a batch as the network sees them, drawn from their Gaussians.

  Args:
    key: of the draw.
    moments: as `data.prepare.latents` stores them, M = 4C.
    mirrored: images that are taken mirrored.
    scale: times a latent.
  """
  plain, other = jnp.split(moments.astype(jnp.float32), 2, -1)
  gaussian = posterior(jnp.where(mirrored, other, plain))
  noise = jax.random.normal(key, gaussian.mean.shape)
  return scale * gaussian.sample(noise)
