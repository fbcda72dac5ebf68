"""One example of a batch: read, decoded, cropped; and the batch of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.precomputed_arrays import LATENTS
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.errors import UserError

# A cut's random numbers are not those of `pick`; they would be with 0:
# findings/numpy_seeds_of_several_numbers_collide.sh
_CUT = 1
_ATTEMPTS = 16  # bad examples in a row before the data are given up
# pick(example of the source, random numbers) -> entries of the batch.
Pick = Callable[[Example, np.random.Generator], dict[str, Any]]


class Loaded(NamedTuple):
  """An example or a batch, and the bad examples that others replaced in it.

  Attributes:
    entries: by name; of a batch, stacked.
    skipped: 'name: reason' of each bad example.
  """

  entries: dict[str, Any]
  skipped: list[str]


class ExampleLoader:
  """Loads the examples of a source for the positions of a stream."""

  def __init__(
    self,
    source: Source,
    options: LoaderOptions,
    pick: Pick | None = None,
  ):
    """Keeps the source.

    Args:
      source: examples by index.
      options: the seed, with the position, decides the random numbers of
        `pick` and the cuts.
      pick: see `batches.make_batches`.
    """
    self._source = source
    self._seed = options.seed
    self._pick = pick
    self._crop = options.crop
    # Damage comes in stretches: the example taken instead is far away.
    self._stride = int(len(source) * 0.382) + 1

  def __call__(
    self, position: int, index: int, shape: tuple[int, int]
  ) -> Loaded:
    """Loads an example, or another one in its stead if it is bad.

    Args:
      position: in the stream.
      index: in the source.
      shape: height and width of the pixels.

    Raises:
      UserError: the others are bad too.
    """
    skipped = []
    for attempt in range(_ATTEMPTS):
      tried = (int(index) + attempt * self._stride) % len(self._source)
      name = f'example {tried}'
      try:
        example = self._source[tried]
        name = example['name']
        if LATENTS in self._source.arrays:  # pixels are not needed then
          pixels = example['arrays'][LATENTS]
        else:
          image = transforms.decode(example['image'])
          if self._crop < 1:
            random = np.random.default_rng((self._seed, position, _CUT))
            image = transforms.random_cut(image, *shape, self._crop, random)
          pixels = transforms.crop(image, *shape)
      except (transforms.BadExample, OSError) as error:
        skipped.append(f'{name}: {error}')
        continue
      return Loaded(self._entries(position, tried, example, pixels), skipped)
    raise UserError(
      f'{_ATTEMPTS} bad examples in a row, the data are damaged: '
      + '; '.join(dict.fromkeys(skipped))  # small sources repeat some
    )

  def _entries(
    self, position: int, index: int, example: Example, pixels: np.ndarray
  ) -> dict[str, Any]:
    """Returns the entries of a batch that one example gives."""
    entries: dict[str, Any] = {
      'image': pixels,
      'label': np.int32(example['label']),
      'id': np.int32(index),
    }
    if self._source.captions:
      captions = example['captions']
      entries['caption'] = captions[0].text if captions else ''
    entries |= {
      name: example['arrays'][name]
      for name in self._source.arrays
      if name != LATENTS
    }
    if self._pick:
      # By the position in the stream of all hosts. Counted by each host for
      # itself, as grain does, it would have all of them draw the same numbers:
      # findings/grain_hosts_draw_the_same_numbers.sh
      random = np.random.default_rng((self._seed, position))
      entries |= self._pick(example, random)
    return entries


def stack(examples: list[Loaded]) -> Loaded:
  """Stacks arrays and numbers; other values, as captions, are listed."""
  batch: dict[str, Any] = {}
  for name, first in examples[0].entries.items():
    values = [example.entries[name] for example in examples]
    arrays = isinstance(first, np.ndarray | np.generic)
    batch[name] = np.stack(values) if arrays else values
  skipped = [bad for example in examples for bad in example.skipped]
  return Loaded(batch, skipped)
