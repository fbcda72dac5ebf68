"""One example of a batch: read, decoded, cropped; and the batch of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pixeldit_jax.data import transforms
from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

_ATTEMPTS = 16  # bad examples in turn before the data are given up
# pick(example of the source, its random numbers) -> entries of the batch.
Pick = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


class Load:
  """Loads the examples of a source for the places of a stream."""

  def __init__(self, source: Source, seed: int, pick: Pick | None = None):
    """The arguments are those of `make_pipeline`."""
    self._source = source
    self._seed = seed
    self._pick = pick
    # What is damaged lies together: another example is far away.
    self._stride = int(len(source) * 0.382) + 1

  def __call__(
    self, position: int, index: int, shape: tuple[int, int]
  ) -> dict[str, Any]:
    """Loads example `index`, or another in its place if that is bad.

    Args:
      position: in the stream; with the seed, it decides what `pick` draws.
      index: in the source.
      shape: height and width of the pixels.

    Raises:
      ValueError: if the others are bad too.
    """
    skipped = []
    for attempt in range(_ATTEMPTS):
      at = (int(index) + attempt * self._stride) % len(self._source)
      name = f'example {at}'
      try:
        example = self._source[at]
        name = example['name']
        image = transforms.decode(example['image'])
        pixels = transforms.crop(image, *shape)
      except (transforms.BadExample, OSError) as error:
        skipped.append(f'{name}: {error}')
        continue
      loaded = {
        'image': pixels,
        'label': np.int32(example['label']),
        'id': np.int32(at),
        'skipped': skipped,
      }
      if self._source.captions:
        given = example['captions']
        loaded['caption'] = given[0].text if given else ''
      loaded |= {key: example[key] for key in self._source.arrays}
      if self._pick:
        random = np.random.default_rng((self._seed, position))
        loaded |= self._pick(example, random)
      return loaded
    raise UserError(
      f'{_ATTEMPTS} bad examples in turn, the data are damaged: '
      + '; '.join(dict.fromkeys(skipped))  # few examples come round again
    )


def stack(examples: list[dict[str, Any]]) -> dict[str, Any]:
  """Stacks arrays and numbers; all else, as captions, stays a list."""
  batch = {key: [example[key] for example in examples] for key in examples[0]}
  for key, values in batch.items():
    if isinstance(values[0], np.ndarray | np.generic):
      batch[key] = np.stack(values)
  batch['skipped'] = [name for names in batch['skipped'] for name in names]
  return batch
