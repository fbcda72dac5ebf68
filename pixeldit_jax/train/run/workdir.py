"""The folder of a run: its configuration, its history, what may change later.

config.json        all values, as of the newest start
history.jsonl      a line for each start and stop: when, why, with what
evaluations.jsonl  the metrics of each evaluation, by step
progress.json      the step it is at, and where the time went
parameters.txt     the weights, for people
text.json          the text encoder, of a run with texts
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

from pixeldit_jax import files, settings
from pixeldit_jax.config import get_config
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.typing import PyTree

# The event in the history of a workdir that was made of released weights.
CONVERTED = 'converted'
# With other values of these it is another run, not the same one continued.
RUN_IDENTITY_KEYS = (
  'seed',
  'model',
  'data',
  'flow',
  'repa',
  'grounding',
  'perceptual',
  'init_from',
)
# Except these, which change speed, memory or the schedule of a loss only.
PERFORMANCE_KEYS = (
  'model.dtype',
  'model.attention',
  'model.scan',
  'model.patch_remat',
  'model.pixel_remat',
  'repa.sharded',
  'grounding.sharded',
  'repa.stop_step',
  'repa.decay_steps',
  'data.checksums',
  'data.num_threads',
  'data.num_workers',
  'data.prefetch',
)
_TEXT_ENCODER = 'text.json'


def read_config(workdir: str) -> ConfigDict:
  """The configuration of the run in a folder.

  Keys that are newer than the run have their defaults, which are what it did.

  Raises:
    MissingFileError: there is no run.
    UserError: the file is damaged.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.is_file():
    raise MissingFileError(
      f'workdir {workdir} holds no run: {path} is absent. Give the --workdir '
      'that pixeldit train was given.'
    )
  defaults = json.loads(get_config().to_json())
  return ConfigDict(_with_defaults(files.read_json(path), defaults))


def _with_defaults(stored: Mapping[str, Any], defaults: Mapping[str, Any]):
  """The stored values, and defaults for keys that are not among them."""
  both = defaults.keys() & stored.keys()
  nested = {key for key in both if isinstance(stored[key], Mapping)}
  return {
    **defaults,
    **stored,
    **{key: _with_defaults(stored[key], defaults[key]) for key in nested},
  }


def changes(workdir: str, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys of a run whose values are others now: (stored, asked) value.

  Empty for a folder without a run.
  """
  if not (epath.Path(workdir) / 'config.json').is_file():
    return {}
  return settings.differences(
    settings.flatten(read_config(workdir).to_dict()),
    settings.flatten(settings.as_json(config.to_dict())),
  )


def check_same_run(
  workdir: str, config: ConfigDict, allow_change: Collection[str] = ()
) -> None:
  """Checks that a configuration continues the run in a folder, if there is one.

  Args:
    workdir: folder of a run, old or new.
    config: values of this start.
    allow_change: identity keys that may differ all the same ('data.source').

  Raises:
    UserError: it would become another run, or the folder has only weights.
  """
  if any(line['event'] == CONVERTED for line in read_history(workdir)):
    raise UserError(
      f'workdir {workdir} holds converted weights, without optimizer and data '
      f'iterator. To start from them: --config.init_from={workdir} with '
      'another --workdir.'
    )
  changed = {
    key: values
    for key, values in changes(workdir, config).items()
    if key.split('.')[0] in RUN_IDENTITY_KEYS
    and key not in (*PERFORMANCE_KEYS, *allow_change)
  }
  if changed:
    raise UserError(
      f'workdir {workdir} holds a run of another configuration:\n'
      f'{settings.describe(changed)}\nUse another --workdir, or the values of '
      'that run. To change the run on purpose: '
      f'--allow_change={",".join(changed)}'
    )


def keep_text_encoder(workdir: str, meta: Mapping[str, Any]) -> None:
  """Writes the `meta` of the text encoder, or compares it with that of before.

  The network knows the embeddings of this encoder only, so a run is continued
  and sampled with the same one. Its name may change, as it may be a path.

  Raises:
    UserError: the texts were encoded anew by another encoder.
  """
  path = epath.Path(workdir) / _TEXT_ENCODER
  if path.is_file():
    stored = files.read_json(path)
    _check_text_encoder(path, stored, meta, stored.keys() | meta.keys())
  elif jax.process_index() == 0:
    files.write_json(path, meta)


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
  """The values of the last `write_progress`; empty before."""
  path = epath.Path(workdir) / 'progress.json'
  return files.read_json(path) if path.is_file() else {}


def add_history(workdir: str, event: str, **facts) -> None:
  """Adds a line with the time to history.jsonl."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  _append(workdir, 'history.jsonl', dict(event=event, time=now, **facts))


def add_evaluation(
  workdir: str, step: int, metrics: Mapping[str, float]
) -> None:
  """Adds the metrics of a step to evaluations.jsonl."""
  line = dict(step=step, **{k: float(v) for k, v in metrics.items()})
  _append(workdir, 'evaluations.jsonl', line)


def read_evaluations(workdir: str) -> dict[int, dict[str, float]]:
  """All metrics by step; later lines of a step add to those before."""
  metrics: dict[int, dict[str, float]] = {}
  for line in _read_lines(workdir, 'evaluations.jsonl'):
    metrics.setdefault(line.pop('step'), {}).update(line)
  return metrics


def read_history(workdir: str) -> list[dict[str, Any]]:
  """Every start and stop, in order."""
  return _read_lines(workdir, 'history.jsonl')


def _read_lines(workdir: str, name: str) -> list[dict[str, Any]]:
  path = epath.Path(workdir) / name
  if not path.is_file():
    return []
  text = path.read_text()
  return [files.parse_json(line, path) for line in text.splitlines()]


def _append(workdir: str, name: str, line: Mapping[str, Any]) -> None:
  path = epath.Path(workdir) / name
  before = path.read_text() if path.is_file() else ''
  _replace(workdir, name, before + json.dumps(line) + '\n')


def _replace(workdir: str, name: str, text: str) -> None:
  """Writes a file of the folder, from process 0."""
  if jax.process_index() == 0:
    files.write_text(epath.Path(workdir) / name, text)
