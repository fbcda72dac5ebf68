"""A new order of a source for each epoch, with random access.

A Feistel network of 8 rounds permutes the numbers of as many bits as the source
needs; those beyond the source are permuted again until they fall into it
(Luby and Rackoff 1988; Black and Rogaway 2002). The keys of its rounds are
hashed from the seed and the epoch, so that no epoch of one seed is one of
another. Grain's cipher, which older runs go on with, has 4 rounds: neighbours
in the source come to correlated places, and seed 0 has in its second epoch the
order of the first epoch of seed 1.
"""

import dataclasses
import functools
import hashlib

import grain
import numpy as np

GRAIN, FEISTEL = 1, 2  # the orders there are, as they are saved with a run
ROUNDS = 8
_MASK = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Epochs:
  """f(position) -> index below `count`; `count` positions are an epoch.

  A class and no closure, as worker processes get it pickled.

  Attributes:
    count: examples.
    seed: of the run; 0 <= seed < 2**32.
    part: of the source, each with an order of its own, as a bucket.
    order: FEISTEL, or GRAIN for runs that were begun with it.
  """

  count: int
  seed: int
  part: int = 0
  order: int = FEISTEL

  def __call__(self, position: int) -> int:
    if self.order == GRAIN:
      return int(_grain(self.count, (self.seed + self.part) % 2**32)[position])
    epoch, place = divmod(position, self.count)
    return permute(place, self.count, _keys(self.seed, self.part, epoch))


@functools.lru_cache(maxsize=64)
def _grain(count: int, seed: int) -> grain.MapDataset:
  return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def permute(index: int, count: int, keys: tuple[int, ...]) -> int:
  """The number below `count` that takes the place of `index`."""
  index = _feistel(index, count, keys)
  while index >= count:
    index = _feistel(index, count, keys)
  return index


def permute_all(count: int, keys: tuple[int, ...]) -> np.ndarray:
  """`permute` of all numbers below `count`, at once."""
  found = np.arange(count, dtype=np.uint64)
  beyond = np.ones(count, bool)
  while beyond.any():
    found[beyond] = _feistel(found[beyond], count, keys)
    beyond = found >= count
  return found.astype(np.int64)


def _feistel(index, count: int, keys: tuple[int, ...]):
  """The network, on an integer or on an array of uint64."""
  bits = max(2, (count - 1).bit_length())
  low = bits // 2
  left, right = index >> low, index & 2**low - 1
  for first, second in zip(keys[::2], keys[1::2]):
    # The high bits of a product are functions of all bits below.
    mixed = (right ^ first) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 32) * 0xBF58476D1CE4E5B9 & _MASK
    left ^= mixed >> (64 - bits + low)
    mixed = (left ^ second) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 32) * 0xBF58476D1CE4E5B9 & _MASK
    right ^= mixed >> (64 - low)
  return left << low | right


@functools.lru_cache(maxsize=256)
def _keys(seed: int, part: int, epoch: int) -> tuple[int, ...]:
  text = f'order 0 {seed} {part} {epoch}'.encode()
  digest = hashlib.blake2b(text, digest_size=8 * ROUNDS).digest()
  return tuple(
    int.from_bytes(digest[8 * i : 8 * i + 8], 'little') for i in range(ROUNDS)
  )
