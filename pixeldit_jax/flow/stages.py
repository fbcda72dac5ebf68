"""Flow matching through stages of rising resolution (PixelFlow, 2504.07963).

Stage i of S, from the smallest, covers the share [i/S, (i+1)/S] of the way. It
starts from the stage before, made twice as large, with noise added:

  end   = end_i E + (1 - end_i) n,      E the image at the stage's size
  start = start_i L + (1 - start_i) n,  L the same, halved and doubled again

with one noise n, and the network gives end - start at t end + (1 - t) start.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.typing import AnyArray, Array, Float, PyTree

STEPS = 1000  # times of a stage, and of all stages together
LAST = 1 - 1 / STEPS  # the last time of a stage that the network is given
CORRELATION = -1 / 3  # of the noise inside a block of 2 x 2
# Of guidance, in each stage: PixelFlow's for 4; of 2 the first and the last.
SHARES = {4: (0.0, 1 / 6, 2 / 3, 1.0), 2: (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Stages:
  """How many stages there are; tables of them, float64 [S]."""

  count: int = 4

  def __post_init__(self):
    if self.count < 1:
      raise UserError(f'stages={self.count}: at least 1.')

  @functools.cached_property
  def way(self) -> Float[np.ndarray, 'R']:
    """Where stages meet, R = S + 1 shares of the way, in whole steps."""
    return STEPS * np.arange(self.count + 1) // self.count / STEPS

  @property
  def ends(self) -> Float[np.ndarray, 'S']:
    """The share of the image at the end of each."""
    return self.way[1:]

  @functools.cached_property
  def starts(self) -> Float[np.ndarray, 'S']:
    """The share of the image at the start of each."""
    a = self.way[:-1]
    return a / (np.sqrt(1 - 1 / CORRELATION) * (1 - a) + a)

  @functools.cached_property
  def bounds(self) -> Float[np.ndarray, 'S 2']:
    """What the network is given at times 0 and `LAST` of each stage.

    Their lengths, end to end, fill [0, 999]; the very last is 999.
    """
    lengths = np.cumsum(self.ends - self.starts)
    edges = [0, *(int(STEPS * n) for n in lengths / lengths[-1])]
    first, after = np.array(edges[:-1]), np.array(edges[1:], np.float64)
    last = first + (after - first) * LAST
    last[-1] = STEPS - 1
    return np.stack([first, last], 1)

  def time_of(self, stage: int, t: Float[AnyArray, '*B']) -> Float[Array, '*B']:
    """What the network is given at a time t in [0, 1] of a stage."""
    first, last = self.bounds[stage]
    return first + (last - first) / LAST * jnp.asarray(t, jnp.float32)

  def sides(self, height: int, width: int) -> list[tuple[int, int]]:
    """The size of the image in each stage.

    Raises:
      UserError: sides that cannot be halved so often.
    """
    most = 2 ** (self.count - 1)
    if height % most or width % most:
      raise UserError(
        f'an image of {height} x {width} in {self.count} stages: both sides '
        f'must be multiples of {most}, to be halved {self.count - 1} times.'
      )
    halvings = range(self.count - 1, -1, -1)
    return [(height // 2**n, width // 2**n) for n in halvings]

  def guidance(self, scale: Any) -> list[Any]:
    """The scale in each stage: none in the first, all of it in the last.

    Raises:
      UserError: a number of stages that no shares are known for.
    """
    if self.count not in SHARES:
      raise UserError(
        f'guidance={scale} in {self.count} stages: its shares are known for '
        f'{list(SHARES)}; use guidance=1.'
      )
    return [1 + (scale - 1) * share for share in SHARES[self.count]]

  def times(self, steps: int, shift: float = 1.0) -> np.ndarray:
    """The times of the steps of a stage: the last is from `LAST` to 1."""
    inner = LAST * time_grid(steps - 1) if steps > 1 else np.zeros(1)
    inner = inner / (shift + (1 - shift) * inner)
    return np.append(inner, 1).astype(np.float32)


def halve(x: Float[Array, 'B H W C']) -> Float[Array, 'B h w C']:
  """The mean of each block of 2 x 2."""
  B, H, W, C = x.shape
  return x.reshape(B, H // 2, 2, W // 2, 2, C).mean((2, 4))


def double(x: Float[Array, 'B H W C']) -> Float[Array, 'B h w C']:
  """Each pixel as a block of 2 x 2."""
  return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def stage_pair(
  stages: Stages,
  stage: int,
  images: Float[Array, 'B H W C'],
  noise: Float[Array, 'B h w C'],
  t: Float[Array, 'B'],
) -> tuple[Float[Array, 'B h w C'], Float[Array, 'B h w C']]:
  """What the network is given in a stage, and what it is to give.

  Args:
    stages: of the run.
    stage: its number, 0 is the smallest.
    images: data at full size.
    noise: standard normal, of the size of the stage.
    t: times in [0, 1].
  """
  end_image = images
  for _ in range(stages.count - 1 - stage):
    end_image = halve(end_image)
  start_image = double(halve(end_image))
  a, b = stages.starts[stage], stages.ends[stage]
  start = float(a) * start_image + float(1 - a) * noise
  end = float(b) * end_image + float(1 - b) * noise
  t = t[:, None, None, None]
  return t * end + (1 - t) * start, end - start


def jump_weights(stages: Stages, stage: int) -> tuple[float, float]:
  """Of the doubled image and of the noise, where a stage starts."""
  a = float(stages.way[stage])
  return 1 / (2 - a), float(np.sqrt(3)) * (1 - a) / (2 - a)


@functools.cache
def block_factor() -> np.ndarray:
  """The Cholesky factor of the noise of a block of 2 x 2, float32 [4, 4]."""
  covariance = np.full((4, 4), CORRELATION)
  np.fill_diagonal(covariance, 1 + 1e-6)
  return np.linalg.cholesky(covariance).astype(np.float32)


def block_noise(
  normal: Float[Array, 'B h w C 4'],
) -> Float[Array, 'B H W C']:
  """Noise whose blocks of 2 x 2 sum to nearly 0, as doubling leaves them.

  Args:
    normal: standard normal, for the pixels of each block row by row.
  """
  B, h, w, C, _ = normal.shape
  blocks = jnp.einsum(
    'BhwCj,ij->BhwCi', normal, block_factor(), precision='highest'
  )
  blocks = blocks.reshape(B, h, w, C, 2, 2).transpose(0, 1, 4, 2, 5, 3)
  return blocks.reshape(B, 2 * h, 2 * w, C)


def next_stage(
  stages: Stages,
  stage: int,
  x: Float[Array, 'B h w C'],
  noise: Float[Array, 'B H W C'],
) -> Float[Array, 'B H W C']:
  """The start of a stage, from the end of the one before and `block_noise`."""
  keep, add = jump_weights(stages, stage)
  return keep * double(x) + add * noise


def deal(batch: PyTree, stages: Stages) -> list[PyTree]:
  """What each stage gets of the arrays of a batch, equally many rows.

  Every S-th goes to the same: batches come shuffled, and each device keeps its
  own images. Rows are taken by a slice of [b, S], since the compiler would
  gather the complete batch for a list of indices.

  Raises:
    UserError: a batch that does not divide.
  """

  def rows(a: Array) -> Array:
    count, S = a.shape[0], stages.count
    if count % S:
      raise UserError(
        f'a batch of {count} images in {S} stages: it must be a multiple of '
        f'{S}, equally many for each.'
      )
    return a.reshape(-1, S, *a.shape[1:])

  split = jax.tree.map(rows, batch)
  return [
    jax.tree.map(lambda a, stage=stage: a[:, stage], split)
    for stage in range(stages.count)
  ]
