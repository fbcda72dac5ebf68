"""Opens a data source by its specification; none needs TensorFlow.

The kinds of data are in the table `kinds.KINDS`.
"""

import importlib
import logging
import re
from collections.abc import Sequence

from pixeldit_jax import files
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.sources import data_files
from pixeldit_jax.data.sources.kinds import KINDS, describe_kinds, is_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import downloads

log = logging.getLogger(__name__)


def open_source(spec: str, arrays: Sequence[str] = ()) -> Source:
  """Opens the source that a specification such as 'folder:/flowers' names.

  Args:
    spec: the kind and path of the data, as a `form` of `KINDS`; or only a
      path, where its kind is clear (see `detect_kind`). What is in a bucket
      is copied to a disk first, see `downloads.fetch`.
    arrays: names of precomputed arrays to be read with each example.

  Raises:
    UserError: an unknown kind, or data that cannot be used as they are.
    MissingFileError: the path does not exist.
    MissingPackageError: the kind needs a package that is not installed.
  """
  spec = _fetched(files.expand_user(spec))
  if spec and spec.partition(':')[0] not in KINDS:
    from pixeldit_jax.data.sources import detect_kind

    if detect_kind.exists(spec):
      spec = detect_kind.detect(spec)
      log.info('the data are %s', spec)
  if not is_source(spec):
    raise UserError(
      f'unknown data source {spec!r}; give one of\n{describe_kinds()}'
    )
  name, _, rest = spec.partition(':')
  kind = KINDS[name]
  module = importlib.import_module(f'pixeldit_jax.data.sources.{kind.module}')
  source_class = getattr(module, kind.class_name)
  if not rest:
    source = source_class()
  else:
    source = source_class(open_source(rest) if kind.wraps else rest)
  return source.with_arrays(arrays) if arrays else source


def _fetched(spec: str) -> str:
  """The specification with a copy on a disk in place of gs://..., if any."""
  match = re.fullmatch(r'((?:[a-z_0-9]+:)*?)(gs|s3)://(.*)', spec, re.S)
  if not match:
    return spec
  before, scheme, path = match.groups()
  for item in data_files.expand_braces(path.partition('?')[0]):
    downloads.fetch(f'{scheme}://{item}')
  return f'{before}{downloads.folder_of(scheme)}/{path}'
