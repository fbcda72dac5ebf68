"""Random-access sources of images: what each kind provides."""

from typing import Any


class Source:
  """A sequence of examples; small to pickle, so that workers can have it.

  `source[i]` is a dict: 'image' (encoded bytes, or uint8 [H W C]), 'label'
  (int, an index of `class_names`, or -1 where there are none), 'name' (str,
  unique in the source) and, where `captions`, 'captions' (a list of `Caption`,
  perhaps empty). It raises `BadExample` or `OSError` where that one example
  cannot be read.

  Attributes:
    class_names: one name per class, in the order of the labels.
    captions: whether examples have captions.
    arrays: names of the arrays stored beside the images that examples have.
    buckets: (height, width) of each aspect-ratio bucket; only of shards.
  """

  class_names: tuple[str, ...] = ()
  captions: bool = False
  arrays: tuple[str, ...] = ()
  buckets: tuple[tuple[int, int], ...] = ()

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> dict[str, Any]:
    raise NotImplementedError

  def check(
    self,
    *,
    resolution: int,
    checksums: bool = False,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Checks at the start of a run what the source can vouch for.

    Of shards see `check_shards`, of tfds `TfdsSource.check`; opening others has
    checked all that they know.

    Raises:
      ValueError: if the data are not what the run expects.
    """
