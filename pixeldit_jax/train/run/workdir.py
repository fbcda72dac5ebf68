"""The folder of a run: its configuration, its history, what may change later.

config.json        all values, as of the newest start
history.jsonl      a line for each start and stop: when, why, with what
evaluations.jsonl  the numbers of each evaluation, by step
progress.json      how far it is, and where the time went
parameters.txt     the weights, for people
lock               who trains here now
checkpoints/       one folder for each kept step
damaged/           checkpoints that were found damaged
events/            TensorBoard, and traces
"""

import datetime
import json
from collections.abc import Collection, Mapping
from typing import Any

import clu.parameter_overview
import jax
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.typing import PyTree

# The event in the history of a workdir that was made of released weights.
CONVERTED = 'converted'
# What other values here mean is another run, not the same one continued.
FIXED = ('seed', 'model', 'data', 'flow', 'repa', 'init_from')
# These change speed or memory only.
FREE = (
  'model.dtype',
  'model.attention',
  'model.scan',
  'model.patch_remat',
  'model.pixel_remat',
  'repa.sharded',
  'repa.stop_step',
  'repa.decay_steps',
  'data.checksums',
  'data.num_threads',
  'data.num_workers',
  'data.prefetch',
)


def read_config(workdir: str) -> ConfigDict:
  """The configuration of the run in a folder.

  Keys that are newer than the run have their defaults, which are what it did.

  Raises:
    FileNotFoundError: there is no run.
    UserError: the file is damaged.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.is_file():
    raise MissingFileError(
      f'workdir {workdir} holds no run: {path} is absent. Give the --workdir '
      'that launch/train.py was given.'
    )
  stored = _parse(path, path.read_text())
  return ConfigDict(_over(json.loads(get_config().to_json()), stored))


def _over(defaults: Mapping[str, Any], stored: Mapping[str, Any]) -> dict:
  """The stored values, and defaults for keys that are not among them."""
  both = defaults.keys() & stored.keys()
  nested = {key for key in both if isinstance(stored[key], Mapping)}
  return {
    **defaults,
    **stored,
    **{key: _over(defaults[key], stored[key]) for key in nested},
  }


def changes(workdir: str, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Values there and here by key, where a configuration differs from the old.

  Empty for a folder without a run.
  """
  if not (epath.Path(workdir) / 'config.json').is_file():
    return {}
  before, now = _flat(read_config(workdir)), _flat(config)
  return {
    key: (before.get(key, 'absent'), now.get(key, 'absent'))
    for key in sorted(before.keys() | now.keys())
    if before.get(key, 'absent') != now.get(key, 'absent')
  }


def lines(changed: Mapping[str, tuple[Any, Any]]) -> str:
  """What `changes` found, a line for each key."""
  return '\n'.join(
    f'  {key}: {there} there, {here} here'
    for key, (there, here) in changed.items()
  )


def check_same_run(
  workdir: str, config: ConfigDict, allow_change: Collection[str] = ()
) -> None:
  """Raises UserError if no run goes on there, or one would become another.

  Args:
    workdir: of a run, old or new.
    config: with which it is to go on.
    allow_change: fixed keys that may differ all the same, as 'data.source'.
  """
  if any(line['event'] == CONVERTED for line in read_history(workdir)):
    raise UserError(
      f'workdir {workdir} holds converted weights, with no optimizer and no '
      f'place in the data. To start from them: --config.init_from={workdir} '
      'with another --workdir.'
    )
  changed = changes(workdir, config)
  fixed = {
    key: values
    for key, values in changed.items()
    if key.split('.')[0] in FIXED and key not in (*FREE, *allow_change)
  }
  if fixed:
    raise UserError(
      f'workdir {workdir} holds a run of another configuration:\n'
      f'{lines(fixed)}\nUse another --workdir, or the values of that run. To '
      f'change the run on purpose: --allow_change={",".join(fixed)}'
    )


def write_config(workdir: str, config: ConfigDict) -> None:
  """Replaces config.json."""
  _replace(workdir, 'config.json', config.to_json(indent=2) + '\n')


def write_overview(workdir: str, weights: PyTree) -> None:
  """Lists the weights for people."""
  table = clu.parameter_overview.get_parameter_overview(
    weights, include_stats=False
  )
  _replace(workdir, 'parameters.txt', table + '\n')


def write_progress(workdir: str, progress: Mapping[str, Any]) -> None:
  """Replaces progress.json."""
  _replace(workdir, 'progress.json', json.dumps(progress, indent=2) + '\n')


def read_progress(workdir: str) -> dict[str, Any]:
  """What `write_progress` wrote last; empty before."""
  path = epath.Path(workdir) / 'progress.json'
  return _parse(path, path.read_text()) if path.is_file() else {}


def add_history(workdir: str, event: str, **facts) -> None:
  """Adds a line with the time to history.jsonl."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  _append(workdir, 'history.jsonl', dict(event=event, time=now, **facts))


def add_evaluation(
  workdir: str, step: int, numbers: Mapping[str, float]
) -> None:
  """Adds the numbers of a step to evaluations.jsonl."""
  line = dict(step=step, **{k: float(v) for k, v in numbers.items()})
  _append(workdir, 'evaluations.jsonl', line)


def read_evaluations(workdir: str) -> dict[int, dict[str, float]]:
  """All numbers by step; later lines of a step add to those before."""
  numbers: dict[int, dict[str, float]] = {}
  for line in _lines(workdir, 'evaluations.jsonl'):
    numbers.setdefault(line.pop('step'), {}).update(line)
  return numbers


def read_history(workdir: str) -> list[dict[str, Any]]:
  """Every start and stop, in order."""
  return _lines(workdir, 'history.jsonl')


def _lines(workdir: str, name: str) -> list[dict[str, Any]]:
  path = epath.Path(workdir) / name
  if not path.is_file():
    return []
  return [_parse(path, line) for line in path.read_text().splitlines()]


def _parse(path: epath.Path, text: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise UserError(
      f'{path} is damaged ({error}): bring back a copy, or correct it by hand.'
    ) from error


def _append(workdir: str, name: str, line: Mapping[str, Any]) -> None:
  path = epath.Path(workdir) / name
  before = path.read_text() if path.is_file() else ''
  _replace(workdir, name, before + json.dumps(line) + '\n')


def _replace(workdir: str, name: str, text: str) -> None:
  """Process 0 writes beside and renames: the file is whole at any moment."""
  if jax.process_index():
    return
  path = epath.Path(workdir) / name
  beside = path.with_name(name + '.tmp')
  beside.write_text(text)
  beside.replace(path)


def _flat(config: ConfigDict) -> dict[str, object]:
  """'a.b' to values as JSON has them, where tuples are lists."""

  def walk(prefix, tree):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from walk(f'{prefix}{key}.', value)
      else:
        yield prefix + key, value

  return dict(walk('', json.loads(config.to_json())))
