"""What Arrow's tables say of their columns, and their labels and captions.

`datasets` keeps the features of a table in the metadata of its schema, under
'huggingface': which column is an image, and the names of its classes.
"""

import json
from typing import Any

import pyarrow as pa

from pixeldit_jax.data.sources import columns
from pixeldit_jax.data.sources.byte_index import Part
from pixeldit_jax.errors import UserError


def kinds_of(schema: pa.Schema, path: str) -> dict[str, str]:
  """Returns what each column of a table holds, for `columns.choose`.

  Raises:
    UserError: the names of the columns of the file are damaged.
  """
  try:
    schema.names  # noqa: B018, it decodes them
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is damaged: a name of a column is no text ({error})'
    ) from error
  features = _features(schema)
  kinds = {}
  for field in schema:
    declared = features.get(field.name)
    declared = declared.get('_type') if isinstance(declared, dict) else None
    if declared == 'ClassLabel' and pa.types.is_integer(field.type):
      kinds[field.name] = columns.CLASS
    else:
      kinds[field.name] = _kind_of(field.type)
  return kinds


def _kind_of(kind: pa.DataType) -> str:
  types = pa.types
  if types.is_struct(kind):
    fields = [kind.field(i) for i in range(kind.num_fields)]
    held = {field.name: field.type for field in fields}
    if 'bytes' in held and _is_binary(held['bytes']):
      return columns.IMAGE
    return columns.TEXT if held.keys() & {'caption', 'text'} else columns.OTHER
  if types.is_list(kind) or types.is_large_list(kind):
    inner = _kind_of(kind.value_type)
    return columns.TEXT if inner == columns.TEXT else columns.OTHER
  if _is_binary(kind):
    return columns.BYTES
  if types.is_integer(kind):
    return columns.INTEGER
  if types.is_dictionary(kind):
    return _kind_of(kind.value_type)
  is_text = types.is_string(kind) or types.is_large_string(kind)
  return columns.TEXT if is_text else columns.OTHER


def _is_binary(kind: pa.DataType) -> bool:
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _features(schema: pa.Schema) -> dict[str, Any]:
  """Returns the features that `datasets` wrote, {} if it did not."""
  try:
    stored = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
    return dict(stored['info']['features'])
  except (ValueError, KeyError, TypeError):
    return {}


def class_names_of(schema: pa.Schema, column: str) -> list[str] | None:
  """Returns the names of the classes, if the table says them."""
  declared = _features(schema).get(column)
  names = declared.get('names') if isinstance(declared, dict) else None
  return [str(name) for name in names] if isinstance(names, list) else None


def check_columns(
  schema: pa.Schema, chosen: columns.Columns, path: str
) -> None:
  """Raises UserError if a file of a source lacks one of its columns."""
  names = [chosen.image, chosen.label, *chosen.captions]
  missing = [name for name in filter(None, names) if name not in schema.names]
  if missing:
    raise UserError(
      f'{path} has no column {", ".join(missing)}, as the first file has; it '
      f'has {", ".join(schema.names)}: are they of one data set?'
    )


def only_paths(path: str, given: str) -> str:
  """Says why a table of paths is refused; `given` is one of them."""
  return (
    f'{path} holds no pictures, only their paths on the machine that wrote it '
    f'(as {given!r}): write the bytes, by datasets.save_to_disk or '
    'push_to_hub, on that machine'
  )


class TableReader:
  """Collects labels and captions from the batches of one file."""

  def __init__(self, schema: pa.Schema, chosen: columns.Columns, path: str):
    check_columns(schema, chosen, path)
    self._chosen, self._path = chosen, path
    self._class_names = class_names_of(schema, chosen.label)
    self._labels: list[Any] = []
    self._captions: list[bytes] = []

  @property
  def columns(self) -> list[str]:
    """The columns that batches must have, besides the image."""
    return [*filter(None, [self._chosen.label]), *self._chosen.captions]

  def take(self, batch: pa.Table | pa.RecordBatch):
    """Takes the labels and captions of a batch."""
    if self._chosen.label:
      self._labels += batch.column(self._chosen.label).to_pylist()
    if self._chosen.captions:
      names = self._chosen.captions
      values = [batch.column(name).to_pylist() for name in names]
      self._captions += [
        columns.pack_row(dict(zip(names, row)), self._path)
        for row in zip(*values)
      ]

  def finish(self, part: Part):
    """Adds what was collected to the part of the file."""
    chosen = self._chosen
    part.class_names = self._class_names
    columns.add_labels(part, self._labels if chosen.label else None)
    columns.add_captions(part, self._captions if chosen.captions else None)
