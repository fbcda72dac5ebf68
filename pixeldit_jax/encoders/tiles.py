"""Large pictures through an autoencoder, a tile at a time.

Its convolutions have all pixels of a picture at the width of a level in memory,
and the attention of its middle compares all of them; of a tile both are small.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.encoders.autoencoder import Autoencoder, Posterior
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float

_OVERLAP = 4  # a tile shares this part of its side with the next


def encode(
  autoencoder: Autoencoder, images: Float[Array, 'B H W C'], tile: int = 0
) -> Posterior:
  """`Autoencoder.encode` by tiles of so many pixels a side; 0 is at once.

  Means and logarithms of variances are mixed where tiles overlap.
  """
  factor = autoencoder.config.factor
  side = _side(images, tile)
  if not side:
    return autoencoder.encode(images)

  def moments(x):
    return jnp.concatenate(autoencoder.encode(x), -1)

  overlap = side // _OVERLAP // factor * factor
  found = by_tiles(moments, images, side, overlap)
  return Posterior(*jnp.split(found, 2, -1))


def decode(
  autoencoder: Autoencoder, latents: Float[Array, 'B h w C'], tile: int = 0
) -> Float[Array, 'B H W D']:
  """`Autoencoder.decode` by tiles of so many latents a side; 0 is at once."""
  side = _side(latents, tile)
  if not side:
    return autoencoder.decode(latents)
  return by_tiles(autoencoder.decode, latents, side, side // _OVERLAP)


def check_tile(name: str, tile: int, factor: int) -> None:
  """Raises UserError for tiles of pixels that do not divide into latents."""
  if tile % factor:
    raise UserError(
      f'{name}={tile}: give a multiple of {factor}, pixels of a side of a '
      'latent.'
    )


def _side(x: Float[Array, 'B H W C'], tile: int) -> int:
  """The side of tiles; 0 where one holds all."""
  height, width = x.shape[1:3]
  whole = not tile or tile >= max(height, width)
  return 0 if whole else min(tile, height, width)


def by_tiles(
  f: Callable[[jax.Array], jax.Array],
  x: Float[Array, 'B H W C'],
  tile: int,
  overlap: int,
) -> Float[Array, 'B h w D']:
  """f of a large picture by square tiles, for encoding or decoding.

  Where tiles overlap they are mixed, more of each towards its middle. It is
  near f(x), not equal: norms and attention see one tile only.

  Args:
    f: of tiles [B, tile, tile, C]; gives sides scaled by one factor.
    x: a picture of at least a tile.
    tile: its side.
    overlap: of neighbouring tiles, in entries of x.

  Raises:
    UserError: an overlap that is not below the tile, or a smaller picture.
  """
  _, height, width, _ = x.shape
  if not 0 <= overlap < tile or min(height, width) < tile:
    raise UserError(
      f'tiles of {tile} that overlap by {overlap}, of {height} x {width}: the '
      'overlap must be below the tile, and the tile at most a side.'
    )
  corners = [
    (top, left)
    for top in _starts(height, tile, overlap)
    for left in _starts(width, tile, overlap)
  ]
  y = jax.eval_shape(f, x[:, :tile, :tile])
  B, side, _, D = y.shape
  weight = _weight(side, overlap * side // tile)
  weight = jnp.broadcast_to(weight, (*y.shape[:3], 1))
  sides = height * side // tile, width * side // tile
  total = jnp.zeros((B, *sides, D + 1), jnp.float32)

  def add(total, corner):
    top, left = corner
    shape = (B, tile, tile, x.shape[-1])
    part = f(jax.lax.dynamic_slice(x, (0, top, left, 0), shape))
    part = part.astype(jnp.float32)  # sums of weighted values
    part = jnp.concatenate([part * weight, weight], -1)
    at = (0, top * side // tile, left * side // tile, 0)
    old = jax.lax.dynamic_slice(total, at, part.shape)
    return jax.lax.dynamic_update_slice(total, old + part, at), None

  # A loop: side by side, tiles would need the memory of the whole together.
  total, _ = jax.lax.scan(add, total, tuple(jnp.asarray(corners, jnp.int32).T))
  return total[..., :-1] / total[..., -1:]


def _weight(side: int, reach: int) -> Float[Array, 'h h 1']:
  """Of the entries of a tile: 1, and less towards its edges."""
  ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1))
  ramp = np.minimum(ramp / max(1, reach), 1).astype(np.float32)
  return jnp.asarray(ramp[:, None, None] * ramp[:, None])


def _starts(side: int, tile: int, overlap: int) -> Sequence[int]:
  """Where tiles begin; the last ends with the side."""
  return [*range(0, side - tile, tile - overlap), side - tile]
