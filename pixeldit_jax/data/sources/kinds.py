"""The kinds of data: how a user writes each, and what opens it.

A new kind is a file in this folder with a subclass of `Source`, and a line in
`KINDS`. Nothing is imported here, so that --help can list them.
"""

import textwrap
from typing import NamedTuple


class Kind(NamedTuple):
  """How a kind of data is written and what opens it.

  Attributes:
    module: in this folder; imported once the kind is used, as it may need an
      optional package.
    class_name: called with what follows 'kind:' in the specification, without
      arguments where nothing may follow.
    form: what a user writes; with a colon, something must follow it.
    help: one sentence for the user.
    wraps: what follows 'kind:' is a specification too, and is opened first.
  """

  module: str
  class_name: str
  form: str
  help: str
  wraps: bool = False


KINDS = {
  'digits': Kind(
    'mnist_digits', 'DigitsSource', 'digits',
    '5,000 MNIST digits, no download',
  ),
  'captioned_digits': Kind(
    'captioned_digits', 'CaptionedDigits', 'captioned_digits',
    'those digits in six colours and four positions, with captions',
  ),
  'folder': Kind(
    'folder', 'FolderSource', 'folder:/path',
    'a folder of class folders of images',
  ),
  'images': Kind(
    'folder', 'UnlabelledFolderSource', 'images:/path',
    'images without classes, for captions next to them',
  ),
  'edm2': Kind(
    'edm2', 'Edm2Source', 'edm2:/path',
    'the EDM2 and REPA layouts: a folder or zip with dataset.json, or '
    'images.h5',
  ),
  'shards': Kind(
    'shards', 'ShardSource', 'shards:/path',
    'what pixeldit prepare-data wrote',
  ),
  'parquet': Kind(
    'parquet', 'ParquetSource', 'parquet:/path',
    'Parquet files of images: a file, folder, glob or '
    'hf://datasets/owner/name; the columns are found, or chosen by '
    '?image=img&label=y&caption=text',
  ),
  'arrow': Kind(
    'arrow', 'ArrowSource', 'arrow:/path',
    'a folder of datasets.save_to_disk',
  ),
  'wds': Kind(
    'webdataset', 'WebDatasetSource', 'wds:/path',
    'tars of WebDataset, as wds:/data/shard-{00000..00009}.tar, or a WIDS '
    'index',
  ),
  'mds': Kind(
    'mds', 'MdsSource', 'mds:/path',
    "shards of MosaicML's streaming",
  ),
  'coco': Kind(
    'coco', 'CocoSource', 'coco:/path',
    'captions_*.json of COCO with their pictures',
  ),
  'imagenet_tar': Kind(
    'imagenet_tar', 'ImageNetTarSource', 'imagenet_tar:/path',
    'ILSVRC2012_img_train.tar, a tar of one tar for each class',
  ),
  'tfds': Kind(
    'tfds', 'TfdsSource', 'tfds:name:split[?dir]',
    'a TensorFlow Datasets data set, as tfds:imagenet2012:train?/data/tfds',
  ),
  'words': Kind(
    'random_word_embeddings', 'RandomWordEmbeddings', 'words:kind...',
    'a source with captions, their words embedded as random vectors: to try '
    'text without an encoder', wraps=True,
  ),
}  # fmt: skip


def is_source(spec: str) -> bool:
  """Whether a text is the specification of a source, such as 'folder:/x'."""
  kind, _, rest = spec.partition(':')
  return kind in KINDS and (':' in KINDS[kind].form) == bool(rest)


def describe_kinds() -> str:
  """Returns one paragraph for each kind, for messages and --help."""
  return '\n'.join(
    textwrap.fill(
      f'  {kind.form:<24} {kind.help}', 79, subsequent_indent=' ' * 27
    )
    for kind in KINDS.values()
  )
