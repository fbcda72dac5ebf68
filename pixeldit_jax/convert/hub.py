"""Exported weights into a repository of the Hugging Face hub."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from etils import epath

from pixeldit_jax.errors import (
  MissingPackageError,
  UserError,
  is_of_hub,
  one_line,
)

_NAME = re.compile(r'hf://([\w.-]+/[\w.-]+)/?')


def create_repository(address: str, private: bool = False) -> str:
  """Makes a repository of models where there is none, before hours of work.

  Args:
    address: hf://user/name.
    private: whether a new one can be seen by its owner alone.

  Returns:
    'user/name'.

  Raises:
    ImportError: huggingface_hub is not installed.
    UserError: another form, nobody is logged in, or the hub refuses.
  """
  match = _NAME.fullmatch(address)
  if match is None:
    raise UserError(f'{address}: expected hf://user/name, a repository.')
  name = match[1]
  try:
    import huggingface_hub
  except ImportError as error:
    raise MissingPackageError(
      f"{address} needs huggingface_hub: pip install 'pixeldit_jax[hub]'."
    ) from error
  with _refusals(address):
    huggingface_hub.HfApi().create_repo(name, private=private, exist_ok=True)
  return name


def push_files(name: str, paths: Sequence[epath.Path], message: str) -> str:
  """Puts files into a repository, by their own names, as one commit.

  Args:
    name: 'user/name'.
    paths: the files, on a disk.
    message: of the commit.

  Returns:
    The address of the commit.

  Raises:
    UserError: nobody is logged in, or the hub refuses.
  """
  import huggingface_hub as hub

  with _refusals(f'hf://{name}'):
    done = hub.HfApi().create_commit(
      name,
      [hub.CommitOperationAdd(path.name, os.fspath(path)) for path in paths],
      commit_message=message,
    )
  return done.commit_url


@contextlib.contextmanager
def _refusals(address: str) -> Iterator[None]:
  """Says what the hub refused, in a line."""
  try:
    yield
  except Exception as error:
    if not is_of_hub(error) and not isinstance(error, ValueError):  # its checks
      raise
    raise UserError(
      f'{address} does not take the files ({one_line(error)}): `hf auth login` '
      'with a token that may write there, or set HF_TOKEN.'
    ) from error
