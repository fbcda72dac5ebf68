"""Data sets that TensorFlow Datasets prepared, read without TensorFlow."""

import concurrent.futures
import logging
import re
from typing import Any

import numpy as np

from pixeldit_jax.data import captions
from pixeldit_jax.data.array_records import record_fault
from pixeldit_jax.data.source import Example, Source
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

log = logging.getLogger(__name__)


CAPTIONS = ('caption', 'captions', 'text')


class TfdsSource(Source):
  """A data set that TensorFlow Datasets prepared as ArrayRecord.

  It needs the feature 'image', and 'label' or one of CAPTIONS, which may be a
  sequence of texts or of features with a 'text'. The classes of labels that are
  plain integers are their numbers.
  """

  def __init__(self, spec: str, class_names: tuple[str, ...] | None = None):
    """Opens `name:split` or `name:split?data_dir`, all as tfds takes them.

    `class_names` are those found before, which a worker need not find again.
    """
    self._spec = spec
    head, _, data_dir = spec.partition('?')
    # The name may hold a version and the split a slice: both have colons.
    match = re.fullmatch(r'([^\[]+):([^:\[]+(?:\[.*)?)', head)
    if not match:
      raise UserError(
        f"data source 'tfds:{spec}': expected tfds:name:split or "
        'tfds:name:split?data_dir'
      )
    name, split = match.groups()
    self._records = _open_tfds(name, split, data_dir or None)
    features = self._records.dataset_info.features
    self._caption = next((k for k in CAPTIONS if k in features), '')
    self.captions = bool(self._caption)
    if 'image' not in features or not (self.captions or 'label' in features):
      raise UserError(
        f"data source 'tfds:{spec}': expected the features 'image' and "
        f"'label' or 'caption', got {sorted(features)}"
      )
    if class_names is not None:
      self.class_names = class_names
    elif 'label' in features:
      self.class_names = self._classes(features['label'])
    self._split = re.split(r'\[', split)[0]

  def _classes(self, feature: Any) -> tuple[str, ...]:
    """The names that a data set gives its labels, or the numbers it uses."""
    names = getattr(feature, 'names', None)
    if names is not None:
      return tuple(names)
    if not np.issubdtype(feature.np_dtype, np.integer) or feature.shape:
      raise UserError(
        f"data source 'tfds:{self._spec}': its labels are {feature.np_dtype} "
        f'{feature.shape}; expected one integer for each image.'
      )
    log.info('tfds:%s: reading its integer labels', self._spec)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      labels = pool.map(
        lambda i: int(self._records[i]['label']), range(len(self._records))
      )
      return tuple(str(k) for k in range(max(labels, default=-1) + 1))

  def __reduce__(self):
    return _reopen, (self._spec, self.class_names)  # with files of their own

  def check(self, **_):
    """Raises UserError for files that are missing or cut short."""
    splits = self._records.dataset_info.splits
    files = splits[self._records.split].file_instructions
    with concurrent.futures.ThreadPoolExecutor() as pool:
      found = pool.map(
        lambda file: record_fault(file.filename, file.examples_in_shard), files
      )
      faults = [fault for fault in found if fault]
    if faults:
      raise UserError(
        f"data source 'tfds:{self._spec}': {len(faults)} of {len(files)} files "
        f'cannot be used, the copy is incomplete: {"; ".join(faults[:5])}'
      )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    try:
      record = self._records[index]
    # ArrayRecord reports a chunk that fails its own checksum as RuntimeError.
    except RuntimeError as error:
      raise BadExample(f'record {index}: {error}') from error
    # Unique also where the file names of the data set are not.
    name = f'{self._split}/{index:08d}'
    if 'file_name' in record:
      name += f'/{_text(record["file_name"])}'
    label = int(record.get('label', -1))
    # As in the test split of ImageNet; the network would take it for no class.
    if label < 0 and not self.captions:
      raise BadExample('has no label')
    example = Example(image=record['image'], label=label, name=name)
    if self.captions:
      example['captions'] = captions.parse(_texts(record[self._caption]))
    return example


def _reopen(spec: str, class_names: tuple[str, ...]) -> TfdsSource:
  return TfdsSource(spec, class_names)


def _open_tfds(name: str, split: str, data_dir: str | None) -> Any:
  """Opens prepared records, with the images left encoded."""
  import tensorflow_datasets as tfds

  place = data_dir or 'the data_dir of tfds (~/tensorflow_datasets)'
  decoders = {'image': tfds.decode.SkipDecoding()}
  try:
    try:
      return tfds.data_source(
        name, split=split, data_dir=data_dir, download=False, decoders=decoders
      )
    except ModuleNotFoundError:
      # The program that makes the data set needs TensorFlow; its files do not.
      builder = tfds.core.read_only_builder.builder_from_files(
        name, data_dir=data_dir
      )
      return builder.as_data_source(split=split, decoders=decoders)
  except tfds.core.DatasetNotFoundError as error:
    raise UserError(
      f'data source: tfds knows no data set {name!r}, and none of that name is '
      f'prepared in {place}; another folder is named by '
      f'tfds:{name}:{split}?/folder'
    ) from error
  # What it raises depends on how much of the data set is there.
  except (AssertionError, KeyError, NotImplementedError) as error:
    raise UserError(
      f'data source: {name!r} is not prepared as ArrayRecord in {place}; name '
      f'the folder where it is, tfds:{name}:{split}?/folder, or do it once '
      f'with: tfds.builder({name!r}, data_dir={data_dir!r}, '
      "file_format='array_record').download_and_prepare()"
    ) from error


def _text(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> str | list[str]:
  if isinstance(value, dict):
    value = value['text']
  if isinstance(value, list | np.ndarray):
    return [_text(item) for item in value]
  return _text(value)
