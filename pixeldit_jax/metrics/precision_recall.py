"""Precision and recall of a sample set, arXiv 1904.06991.

A set's manifold is the union of balls about its feature vectors, each reaching
its third nearest neighbour. Precision is the share of samples inside the
reference's manifold, recall the share of reference images inside the samples'.
As in the ADM suite, but with all distances in fp32: that suite tries fp16
first, which moves points on the edge of a ball.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Array, Float

NEIGHBOURS = 3
_BLOCK = 2048  # feature vectors per side of one block of distances


def precision_recall(
  samples: Float[np.ndarray, 'I D'],
  reference: Float[np.ndarray, 'J D'],
  *,
  neighbours: int = NEIGHBOURS,
  block: int = _BLOCK,
) -> tuple[float, float]:
  """Precision and recall, from 0 to 1.

  Distances are computed block by block on the default device: memory is that of
  the features and of one block, whatever the counts.

  Raises:
    UserError: too few vectors for a neighbourhood, or of different widths.
  """
  if samples.shape[1] != reference.shape[1]:
    raise UserError(
      f'Features of width {samples.shape[1]} and {reference.shape[1]} cannot '
      'be compared.'
    )
  fewest = min(len(samples), len(reference))
  if fewest <= neighbours:
    raise UserError(
      f'Precision and recall need more than {neighbours} images on each side; '
      f'there are {len(samples)} samples and {len(reference)} references.'
    )
  block = min(block, max(len(samples), len(reference)))
  manifold = squared_radii(reference, neighbours, block)
  precision = inside(samples, reference, manifold, block).mean()
  manifold = squared_radii(samples, neighbours, block)
  recall = inside(reference, samples, manifold, block).mean()
  return float(precision), float(recall)


def squared_radii(
  features: Float[np.ndarray, 'I D'], neighbours: int, block: int
) -> Float[np.ndarray, 'I']:
  """Squared distance of each vector to its k-th nearest other one."""
  result = []
  for rows, row_count in _blocks(features, block):
    nearest = jax.device_put(
      np.full((block, neighbours + 1), np.inf, np.float32)
    )
    for columns, count in _blocks(features, block):
      real = jax.device_put(np.arange(block) < count)
      nearest = _keep_nearest(nearest, rows, columns, real)
      nearest.block_until_ready()  # or all columns wait in memory at once
    # The vector itself is the nearest of the k + 1.
    result.append(jax.device_get(nearest)[:row_count, -1])
  return np.concatenate(result)


def inside(
  points: Float[np.ndarray, 'I D'],
  centres: Float[np.ndarray, 'J D'],
  radii: Float[np.ndarray, 'J'],
  block: int,
) -> np.ndarray:
  """Mask [I] of the points that at least one ball holds."""
  # A ball of negative radius holds nothing: that is how padding is left out.
  radii = np.pad(radii, (0, -len(radii) % block), constant_values=-1)
  result = []
  for rows, row_count in _blocks(points, block):
    found = jax.device_put(np.zeros(block, bool))
    for i, (columns, _) in enumerate(_blocks(centres, block)):
      reach = jax.device_put(radii[i * block : (i + 1) * block])
      found = _touch(found, rows, columns, reach)
      found.block_until_ready()
    result.append(jax.device_get(found)[:row_count])
  return np.concatenate(result)


def _blocks(features: np.ndarray, block: int):
  """Yields blocks padded with zeros to one shape, and their true lengths."""
  for start in range(0, len(features), block):
    part = features[start : start + block].astype(np.float32)
    padding = ((0, block - len(part)), (0, 0))
    yield jax.device_put(np.pad(part, padding)), len(part)


def _squared_distances(
  a: Float[Array, 'I D'], b: Float[Array, 'J D']
) -> Float[Array, 'I J']:
  # bf16 products would lose the difference of two large norms.
  product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  norm_a = jnp.square(a).sum(axis=1)
  norm_b = jnp.square(b).sum(axis=1)
  return jnp.maximum(norm_a[:, None] - 2 * product + norm_b[None], 0)


@functools.partial(jax.jit, donate_argnums=0)
def _keep_nearest(nearest, rows, columns, real):
  """Merges a block into the k + 1 smallest distances of each row, ascending."""
  distances = _squared_distances(rows, columns)
  distances = jnp.where(real, distances, jnp.inf)
  both = jnp.concatenate([nearest, distances], axis=1)
  return -jax.lax.top_k(-both, nearest.shape[1])[0]


@functools.partial(jax.jit, donate_argnums=0)
def _touch(found, rows, columns, radii):
  return found | (_squared_distances(rows, columns) <= radii).any(axis=1)
