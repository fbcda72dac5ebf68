"""Arrays of the authors' and of other public code, in tests/golden."""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'golden'


class Golden:
  """Arrays that the authors' code produced."""

  def __init__(self, name: str):
    with np.load(GOLDEN / f'{name}.npz') as file:
      self.arrays = dict(file)
    self.meta = json.loads(bytes(self.arrays.pop('meta')))

  def __getitem__(self, name: str) -> np.ndarray:
    return self.arrays[name]

  def below(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with 'prefix/', without it."""
    start = prefix + '/'
    return {
      name.removeprefix(start): array
      for name, array in self.arrays.items()
      if name.startswith(start)
    }
