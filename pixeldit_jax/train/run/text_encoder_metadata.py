"""Which text encoder a run was trained with: text.json in its folder.

The network knows the embeddings of this encoder alone, so a run goes on, and
is sampled, with the same one. Its name may change: it may lie elsewhere. A run
that starts from another's EMA may cut its texts, or instruct the encoder, in
another way.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from pixeldit_jax.errors import MissingFileError, UserError


def keep_text(workdir: str, meta: Mapping[str, Any]) -> None:
  """Writes the `meta` of the encoder, or compares it with that of before.

  Raises:
    UserError: the data were encoded anew by another encoder.
  """
  path = epath.Path(workdir) / 'text.json'
  if path.is_file():
    before = json.loads(path.read_text())
    _check_same(before, meta, (before.keys() | meta.keys()) - {'encoder'}, path)
  elif jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name('text.json.tmp')
    beside.write_text(json.dumps(meta, indent=2) + '\n')
    beside.replace(path)


def check_start(init_from: str, meta: Mapping[str, Any]) -> None:
  """Compares the `meta` of a new run with that of the run it starts from.

  Raises:
    UserError: it would have to learn the words anew.
  """
  path = epath.Path(init_from) / 'text.json'
  if path.is_file():
    before = json.loads(path.read_text())
    _check_same(before, meta, {'checksum', 'width'}, path)


def _check_same(before, meta, keys: set[str], path: epath.Path) -> None:
  differ = [
    f'{key} was {before.get(key)!r}, is {meta.get(key)!r}'
    for key in sorted(keys)
    if before.get(key) != meta.get(key)
  ]
  if differ:
    raise UserError(
      f'{path} tells of a run with texts of another encoder '
      f'({"; ".join(differ)}): encode the captions as for it '
      '(launch/encode_text.py), or use another workdir.'
    )


def read_text(workdir: str) -> dict[str, Any]:
  """The `meta` of the encoder that a run was trained with.

  Raises:
    FileNotFoundError: the run is not of texts.
  """
  path = epath.Path(workdir) / 'text.json'
  if not path.is_file():
    raise MissingFileError(
      f'workdir {workdir} holds no run with texts: {path} is absent.'
    )
  return json.loads(path.read_text())
