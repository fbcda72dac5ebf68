"""The contract between data and pipeline: examples, and sources of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Protocol, Self, TypedDict

import numpy as np

from pixeldit_jax.data.captions import Caption
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Int, UInt8


class Example(TypedDict):
  """One image and what belongs to it.

  Attributes:
    image: an encoded file, or pixels.
    label: an index of the source's `class_names`; -1 for no class.
    name: unique in the source; names the image in messages.
    captions: perhaps none; required of a source with `captions`.
    arrays: the array of each name in the source's `arrays`.
    size: height and width before the image was prepared, where known.
  """

  image: bytes | UInt8[np.ndarray, 'H W C']
  label: int
  name: str
  captions: NotRequired[list[Caption]]
  arrays: NotRequired[dict[str, np.ndarray]]
  size: NotRequired[tuple[int, int]]


class ArrayInfo(Protocol):
  """The arrays of one name that a source has, such as its text embeddings.

  Attributes:
    meta: what made them; compared with what a run expects.
    shape: of each array; None where they differ in shape.
    dtype: of their elements.
  """

  @property
  def meta(self) -> Mapping[str, Any]: ...

  @property
  def shape(self) -> tuple[int, ...] | None: ...

  @property
  def dtype(self) -> np.dtype: ...

  def constant(self, name: str) -> np.ndarray:
    """Returns an array that belongs to no example, as the embedding of ''.

    Raises:
      KeyError: there is none of this name.
    """


class Source:
  """A sequence of examples with random access.

  A kind of data is a subclass in a file of `data/sources`, and a line in the
  table of `sources.kinds`. Worker processes get a pickled copy: pickle a path
  rather than open files and long lists.

  Attributes:
    class_names: one name for each class, in the order of the labels.
    captions: whether examples have captions.
    arrays: what is known of the arrays that examples have, by name.
    buckets: height and width of each aspect-ratio bucket; () for sources that
      have none.
    resolution: what the images were prepared for; None for any.
  """

  class_names: tuple[str, ...] = ()
  captions: bool = False
  arrays: Mapping[str, ArrayInfo] = {}
  buckets: tuple[tuple[int, int], ...] = ()
  resolution: int | None = None

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> Example:
    """Reads one example; called from many threads at once.

    Raises:
      BadExample, OSError: this example cannot be read; another is taken.
    """
    raise NotImplementedError

  def with_arrays(self, names: Sequence[str]) -> Self:
    """Returns this source with these arrays in its examples.

    Raises:
      UserError: it has not all of them.
    """
    missing = [name for name in names if name not in self.arrays]
    if missing:
      raise UserError(
        f'this data source has no precomputed {", ".join(missing)}: they are '
        'stored next to shards only. Prepare the data with '
        'pixeldit prepare-data'
      )
    return self

  def bucket_of_examples(self) -> Int[np.ndarray, 'N']:
    """Returns the bucket of each example, an index of `buckets`.

    Raises:
      UserError: it has no buckets.
    """
    raise UserError(
      'only shards of pixeldit prepare-data --buckets have aspect ratios: '
      'prepare the data so, or leave data.buckets=False'
    )

  def check(
    self,
    *,
    resolution: int | None = None,
    checksums: bool = False,
    process_index: int = 0,
    process_count: int = 1,
  ) -> None:
    """Checks, at the start of a run, what opening the source did not.

    Args:
      resolution: side of the images that the run expects; None for any.
      checksums: read every byte as well, each process its part of the files.
      process_index: this process.
      process_count: the processes that share the reading.

    Raises:
      UserError: the data are not what the run expects.
    """


class Part(Source):
  """Some of the examples of a source, by their indices."""

  def __init__(self, source: Source, indices: Int[np.ndarray, 'N']):
    self._source, self._indices = source, indices
    self.class_names, self.captions = source.class_names, source.captions
    self.arrays, self.buckets = source.arrays, source.buckets
    self.resolution = source.resolution

  def __len__(self) -> int:
    return len(self._indices)

  def check(self, **options) -> None:
    self._source.check(**options)

  def __getitem__(self, index: int) -> Example:
    return self._source[int(self._indices[index])]

  def bucket_of_examples(self) -> Int[np.ndarray, 'N']:
    return self._source.bucket_of_examples()[self._indices]


def hold_out(source: Source, count: int, seed: int) -> tuple[Part, Part]:
  """Divides a source into the examples to train on and `count` others.

  Raises:
    UserError: there would be none to train on.
  """
  if count >= len(source):
    raise UserError(
      f'data.held_out={count}: there are {len(source)} images, and some must '
      'be left to train on.'
    )
  order = np.random.default_rng(seed).permutation(len(source))
  return Part(source, np.sort(order[count:])), Part(source, order[:count])
