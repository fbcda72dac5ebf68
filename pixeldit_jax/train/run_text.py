"""Which text encoder a run was trained with: text.json in its folder.

The network knows the embeddings of this encoder alone, so a run goes on, and
is sampled, with the same one. Its name may change: it may lie elsewhere.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath


def keep_text(workdir: str, meta: Mapping[str, Any]) -> None:
  """Writes the `meta` of the encoder, or compares it with that of before.

  Raises:
    ValueError: the data were encoded anew by another encoder.
  """
  path = epath.Path(workdir) / 'text.json'
  if path.is_file():
    before = json.loads(path.read_text())
    differ = [
      f'{key} was {before.get(key)!r}, is {meta.get(key)!r}'
      for key in sorted((before.keys() | meta.keys()) - {'encoder'})
      if before.get(key) != meta.get(key)
    ]
    if differ:
      raise ValueError(
        f'workdir {workdir} holds a run with texts of another encoder '
        f'({"; ".join(differ)}): encode the captions as before, or use '
        'another --workdir.'
      )
  elif jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name('text.json.tmp')
    beside.write_text(json.dumps(meta, indent=2) + '\n')
    beside.replace(path)


def read_text(workdir: str) -> dict[str, Any]:
  """The `meta` of the encoder that a run was trained with.

  Raises:
    FileNotFoundError: the run is not of texts.
  """
  path = epath.Path(workdir) / 'text.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'workdir {workdir} holds no run with texts: {path} is absent.'
    )
  return json.loads(path.read_text())
