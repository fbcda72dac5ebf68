"""Opens a data source by its specification; none needs TensorFlow."""

from collections.abc import Sequence

from pixeldit_jax.data.source import Source
from pixeldit_jax.errors import UserError

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


def open_source(spec: str, arrays: Sequence[str] = ()) -> Source:
  """Opens the source that a spec such as 'folder:/data/flowers' names.

  Args:
    spec: the kind and place of the data.
    arrays: names of arrays stored beside shards (see `side_arrays`), to be
      read with each example.

  Raises:
    UserError: for an unknown kind, or data that cannot be used as they are.
    FileNotFoundError: if the path of the spec does not exist.
  """
  # Each kind imports its own reader: h5py or tfds only where they are used.
  kind, _, rest = spec.partition(':')
  if kind == 'words' and rest:
    from pixeldit_jax.data.sources.word_embedded import WordSource

    return WordSource(open_source(rest))
  if arrays:
    if kind != 'shards' or not rest:
      raise UserError(
        f'data source {spec!r}: {", ".join(arrays)} can be stored beside '
        'shards only; prepare the data with launch/prepare_data.py'
      )
    from pixeldit_jax.data.sources.precomputed import ArraySource

    return ArraySource(rest, arrays)
  if spec == 'digits':
    from pixeldit_jax.data.sources.mnist_digits import DigitsSource

    return DigitsSource()
  if spec == 'captioned_digits':
    from pixeldit_jax.data.sources.captioned_digits import CaptionedDigits

    return CaptionedDigits()
  if kind in ('folder', 'images') and rest:
    from pixeldit_jax.data.sources.folder import FolderSource

    return FolderSource(rest, labelled=kind == 'folder')
  if kind == 'edm2' and rest:
    from pixeldit_jax.data.sources.edm2 import Edm2Source

    return Edm2Source(rest)
  if kind == 'shards' and rest:
    from pixeldit_jax.data.sources.shards import ShardSource

    return ShardSource(rest)
  if kind == 'tfds' and rest:
    from pixeldit_jax.data.sources.tfds import TfdsSource

    return TfdsSource(rest)
  raise UserError(f'unknown data source {spec!r}; give one of\n{_KINDS}')
