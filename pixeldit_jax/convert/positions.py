"""Fixed positions of patches that JiT's and DiT's files hold.

They are computed here, so a file's are checked and left out, and written again.
"""

import numpy as np

from pixeldit_jax.convert.blocks import Shapes
from pixeldit_jax.convert.lazy import LazyTensors, Spec
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig

POSITIONS = 'pos_embed'


def position_grid(shapes: Shapes) -> tuple[int, int]:
  """The side of the square that a file has positions of, and their width.

  Raises:
    UserError: there are none, or not those of a square.
  """
  _, patches, width = shapes[POSITIONS]
  grid = round(patches**0.5)
  if grid**2 != patches:
    raise UserError(
      f'{POSITIONS} has {patches} positions: expected those of a square.'
    )
  return grid, width


def fixed_positions(side: int, width: int) -> np.ndarray:
  """The table [1, side^2, width] of `embed.sincos_2d`, as the files have it.

  In float64 before it is rounded, as there: the last bits of float32 differ.
  """
  omega = 1 / 10_000 ** (np.arange(width // 4) / (width // 4))
  angles = np.arange(side)[:, None] * omega
  line = np.concatenate([np.sin(angles), np.cos(angles)], 1)
  columns, rows = np.tile(line, (side, 1)), np.repeat(line, side, 0)
  return np.concatenate([columns, rows], 1)[None].astype(np.float32)


def without_positions(
  released: LazyTensors, config: ModelConfig
) -> LazyTensors:
  """All but the fixed positions, which are checked.

  Raises:
    UserError: they are others than are computed here.
  """
  if POSITIONS not in released:
    raise UserError(f'{POSITIONS} is not among the {len(released)} weights.')
  found = released[POSITIONS].astype(np.float32)
  expected = fixed_positions(config.position_grid, config.width)
  if found.shape != expected.shape or np.abs(found - expected).max() > 1e-2:
    raise UserError(
      f'{POSITIONS} {found.shape} is not the sine-cosine table of '
      f'model.position_grid={config.position_grid} and model.width='
      f'{config.width}, the only positions that the network has.'
    )
  return released.renamed(
    {name: name for name in released if name != POSITIONS}
  )


def with_positions(released: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The inverse of `without_positions`."""
  shape = (1, config.position_grid**2, config.width)
  spec = Spec(shape, next(iter(released.specs.values())).dtype)

  def read(name):
    if name != POSITIONS:
      return released[name]
    table = fixed_positions(config.position_grid, config.width)
    return table.astype(spec.dtype)

  return LazyTensors({POSITIONS: spec} | released.specs, read)
