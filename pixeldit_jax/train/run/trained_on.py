"""What a run was trained on: its text encoder, or the names of its classes.

A network knows the embeddings of one encoder and the numbers of its classes;
with others it would go on learning something else, without a sign of it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from pixeldit_jax import files, settings
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.train.run import workdir as run_folder

_TEXT_ENCODER, _CLASSES = 'text.json', 'classes.json'
_SHOWN = 5  # names in a message


def keep_text_encoder(workdir: str, meta: Mapping[str, Any]) -> None:
  """Writes the `meta` of the text encoder, or compares it with that of before.

  The network knows the embeddings of this encoder only, so a run is continued
  and sampled with the same one. Its name may change, as it may be a path.

  Raises:
    UserError: the texts were encoded anew by another encoder.
  """
  check_text_encoder(workdir, meta)
  path = epath.Path(workdir) / _TEXT_ENCODER
  if not path.is_file() and jax.process_index() == 0:
    files.write_json(path, meta)


def check_text_encoder(workdir: str, meta: Mapping[str, Any]) -> None:
  """Compares the encoder with that of the run, if there is one; see above."""
  path = epath.Path(workdir) / _TEXT_ENCODER
  if path.is_file():
    stored = files.read_json(path)
    _check_text_encoder(path, stored, meta, stored.keys() | meta.keys())


def check_init_text_encoder(init_from: str, meta: Mapping[str, Any]) -> None:
  """Compares the encoder of a new run with that of the run it starts from.

  A new run may cut its texts, or instruct the encoder, in another way.

  Raises:
    UserError: the embeddings are others, so that it would learn words anew.
  """
  path = epath.Path(init_from) / _TEXT_ENCODER
  if path.is_file():
    keys = {'checksum', 'width'}
    _check_text_encoder(path, files.read_json(path), meta, keys)


def read_text_encoder(workdir: str) -> dict[str, Any]:
  """The `meta` of the text encoder that a run was trained with.

  Raises:
    MissingFileError: the run is not of texts.
  """
  path = epath.Path(workdir) / _TEXT_ENCODER
  if not path.is_file():
    raise MissingFileError(
      f'workdir {workdir} holds no run with texts: {path} is absent.'
    )
  return files.read_json(path)


def _check_text_encoder(path, stored, meta, keys: Collection[str]) -> None:
  settings.check_same(
    f'the texts of the run of {path} were encoded with',
    stored,
    meta,
    'Encode the captions as for that run (pixeldit encode-text), or use '
    'another workdir.',
    set(keys) - {'encoder'},
  )


def check_classes(
  workdir: str, names: Sequence[str], allow_change: Collection[str] = ()
) -> None:
  """Compares the names of the classes with those of the run, if there is one.

  Raises:
    UserError: a label would mean another class than before.
  """
  path = epath.Path(workdir) / _CLASSES
  if run_folder.CLASSES in allow_change:
    return
  if not path.is_file():
    if list(names) != sorted(names):
      raise UserError(
        f'workdir {workdir} was begun when class folders 0, 1, .. 10 had the '
        'labels of their order by name (0, 1, 10, 2, ..), and they have those '
        'of their numbers now: use another --workdir, or '
        f'--allow_change={run_folder.CLASSES} to go on with other labels.'
      )
    return
  stored = files.read_json(path, form={'names': [str]})['names']
  if list(names) == stored:
    return
  gone = [name for name in stored if name not in set(names)]
  new = [name for name in names if name not in set(stored)]
  moved = sum(a != b for a, b in zip(stored, names))
  raise UserError(
    f'workdir {workdir} holds a run of {len(stored)} classes, and the data '
    f'have others now: gone {_some(gone)}; new {_some(new)}; {moved} labels '
    'would mean another class. Bring the class folders back, use another '
    f'--workdir, or --allow_change={run_folder.CLASSES}'
  )


def read_class_names(workdir: str) -> tuple[str, ...]:
  """The names of a run's classes by label; () of a run that keeps none."""
  path = epath.Path(workdir) / _CLASSES
  if not path.is_file():
    return ()
  return tuple(files.read_json(path).get('names', ()))


def write_classes(workdir: str, names: Sequence[str]) -> None:
  """Keeps the names of the classes, by label."""
  if jax.process_index() == 0:
    files.write_json(epath.Path(workdir) / _CLASSES, dict(names=list(names)))


def _some(names: Sequence[str]) -> str:
  """A few names, escaped, as anyone may have chosen them."""
  shown = ', '.join(ascii(name) for name in names[:_SHOWN])
  return (
    f'{shown} and {len(names) - _SHOWN} more'
    if names[_SHOWN:]
    else (shown or 'none')
  )
