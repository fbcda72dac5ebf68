"""Shards whose examples carry precomputed arrays, such as embeddings."""

from collections.abc import Sequence
from typing import Any

from pixeldit_jax.data.precomputed_arrays import SideArrays
from pixeldit_jax.data.sources import shards


class ArraySource(shards.ShardSource):
  """Shards whose examples carry the side arrays that are asked for.

  Attributes:
    stored: the side arrays by name, for their `meta` and constants.
  """

  def __init__(self, path: str, arrays: Sequence[str]):
    super().__init__(path)
    self.arrays = tuple(arrays)
    self.stored = {name: SideArrays(path, name) for name in arrays}

  def __reduce__(self):
    return ArraySource, (self._path, self.arrays)

  def check(self, *, resolution: int | None = None, **how):
    """See `check_shards`, which the side arrays follow."""
    super().check(resolution=resolution, **how)
    for arrays in self.stored.values():
      arrays.check(**how)

  def __getitem__(self, index: int) -> dict[str, Any]:
    arrays = {name: stored[index] for name, stored in self.stored.items()}
    return super().__getitem__(index) | arrays
