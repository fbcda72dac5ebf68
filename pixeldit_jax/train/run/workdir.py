"""The folder of a run: its configuration, its history, what may change later.

config.json        all values, as of the newest start
history.jsonl      a line for each start and stop: when, why, with what
evaluations.jsonl  the metrics of each evaluation, by step
progress.json      the step it is at, and where the time went
parameters.txt     the weights, for people
text.json          the text encoder, of a run with texts
classes.json       the names of the classes, in the order of their labels
lock               who trains here now
checkpoints/       one folder for each kept step
damaged/           checkpoints that were found damaged
events/            TensorBoard, and traces
"""

import datetime
import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

import clu.parameter_overview
import jax
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax import files, settings
from pixeldit_jax.config import KEYS, get_config, model_config
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.storage import buckets
from pixeldit_jax.typing import PyTree

# The event in the history of a workdir that was made of released weights.
CONVERTED = 'converted'
# With other values of these it is another run, not the same one continued.
RUN_IDENTITY_KEYS = (
  'seed',
  'model',
  'data',
  'flow',
  'latents',
  'repa',
  'grounding',
  'perceptual',
  'init_from',
  'init_classes',
  'lora',
)
# Except these, which change speed, memory or the schedule of a loss only.
PERFORMANCE_KEYS = (
  'model.dtype',
  'model.products',
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
# What a change is called that is none of a key.
CLASSES = 'classes'


def read_config(workdir: str) -> ConfigDict:
  """The configuration of the run in a folder.

  Keys that are newer than the run have their defaults, which are what it did.

  Raises:
    MissingFileError: there is no run.
    UserError: the file is damaged.
  """
  buckets.check(workdir)
  path = epath.Path(workdir) / 'config.json'
  if not path.is_file():
    raise MissingFileError(
      f'workdir {workdir} holds no run: {path} is absent. Give the --workdir '
      'that pixeldit train was given.'
    )
  defaults = json.loads(get_config().to_json())
  form = {f'{k}?': dict for k, v in defaults.items() if isinstance(v, dict)}
  stored = files.read_json(path, form=form)
  config = ConfigDict(_with_defaults(stored, defaults))
  known = settings.flatten(config.to_dict())
  for key in KEYS:
    try:
      key.check(known[key.name])
    except UserError as error:
      raise UserError(f'{path}: {error}') from error
  return config


def _with_defaults(stored: Mapping[str, Any], defaults: Mapping[str, Any]):
  """The stored values, and defaults for keys that are not among them."""
  both = defaults.keys() & stored.keys()
  nested = {key for key in both if isinstance(stored[key], Mapping)}
  return {
    **defaults,
    **stored,
    **{key: _with_defaults(stored[key], defaults[key]) for key in nested},
  }


def is_begun(workdir: str) -> bool:
  """Whether a folder holds a run: it has a checkpoint, or had one."""
  folder = epath.Path(workdir)
  if not (folder / 'config.json').is_file():
    return False
  if read_progress(workdir).get('saved') is not None:
    return True
  places = [folder / name for name in ('checkpoints', 'damaged')]
  return any(
    path.name.isdigit()
    for place in places
    if place.is_dir()
    for path in place.iterdir()
  )


def changes(workdir: str, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys of a run whose values are others now: (stored, asked) value.

  Empty for a folder without a checkpoint, which holds nothing to go on from.
  """
  if not is_begun(workdir):
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
    allow_change: identity keys that may differ all the same ('data.source');
      never those that give weights other shapes.

  Raises:
    UserError: it would become another run, the folder has only weights, or a
      key is unknown.
  """
  if any(line['event'] == CONVERTED for line in read_history(workdir)):
    raise UserError(
      f'workdir {workdir} holds converted weights, without optimizer and data '
      f'iterator. To start from them: --config.init_from={workdir} with '
      'another --workdir.'
    )
  _check_allowed(allow_change)
  changed = {
    key: values
    for key, values in changes(workdir, config).items()
    if key.split('.')[0] in RUN_IDENTITY_KEYS and key not in PERFORMANCE_KEYS
  }
  shaping = _changes_shapes(workdir, config, changed)
  refused = {
    key: values
    for key, values in changed.items()
    if key in shaping or key not in allow_change
  }
  if not refused:
    return
  message = (
    f'workdir {workdir} holds a run of another configuration:\n'
    f'{settings.describe(refused)}\nUse another --workdir, or the values of '
    'that run.'
  )
  if shaping:
    raise UserError(
      f'{message} {", ".join(shaping)} cannot change in a run, as its weights '
      'would have other shapes.'
    )
  raise UserError(
    f'{message} To change the run on purpose: '
    f'--allow_change={",".join(refused)}'
  )


def _check_allowed(allow_change: Collection[str]) -> None:
  """Raises UserError for a name that is no key of what a run is."""
  for name in allow_change:
    near = [key.name for key in KEYS] + [CLASSES]
    if name in near and name.split('.')[0] in (*RUN_IDENTITY_KEYS, CLASSES):
      continue
    if name in near:
      raise UserError(f'--allow_change={name}: it may change in any run.')
    hint = difflib.get_close_matches(name, near, n=1)
    raise UserError(
      f'--allow_change={name}: there is no such key'
      + (f'; did you mean {hint[0]}?' if hint else '.')
    )


def _changes_shapes(
  workdir: str, config: ConfigDict, changed: Collection[str]
) -> list[str]:
  """Those of the changed keys that give weights other shapes."""
  asked = settings.flatten(config.to_dict())
  stored = read_config(workdir) if changed else config
  if bool(stored.repa.weight) != bool(config.repa.weight):
    return ['repa.weight']  # with or without a projector
  before, found = None, []
  for key in (key for key in changed if key.startswith('model.')):
    before = before or _shapes_of(stored)
    one = stored.copy_and_resolve_references()
    with one.unlocked(), one.ignore_type():
      one.update_from_flattened_dict({key: asked[key]})
    if _shapes_of(one) != before:
      found.append(key)
  return found


def _shapes_of(config: ConfigDict) -> dict[str, tuple[int, ...]] | None:
  """The shapes of the weights by name; None where there is no such network."""
  try:
    weights = weights_of(abstract_model(model_config(config)))
  except UserError:
    return None
  return {name: leaf.shape for name, leaf in settings.flatten(weights).items()}


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
  form = {'step?': int, 'seconds?': dict}
  if not path.is_file():
    return {}
  progress = files.read_json(path, form=form)
  for name, value in progress.get('seconds', {}).items():
    if wrong := files.differs(value, float, f'seconds.{name}'):
      raise UserError(f'{path} is damaged: {wrong}.')
  if progress.get('saved') is not None:
    files.parse_json(json.dumps(progress), path, form={'saved': int})
  return progress


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
  for line in _read_lines(workdir, 'evaluations.jsonl', {'step': int}):
    metrics.setdefault(line.pop('step'), {}).update(line)
  return metrics


def forget_evaluations(workdir: str) -> None:
  """Removes what evaluations found in a start that left no checkpoint."""
  if jax.process_index() == 0:
    (epath.Path(workdir) / 'evaluations.jsonl').unlink(missing_ok=True)


def remove_empty_folders(workdir: str) -> None:
  """Removes the folders that a start made which was then refused."""
  for name in ('checkpoints', 'events'):
    folder = epath.Path(workdir) / name
    if folder.is_dir() and not any(folder.iterdir()):
      folder.rmdir()


def read_history(workdir: str) -> list[dict[str, Any]]:
  """Every start and stop, in order."""
  return _read_lines(workdir, 'history.jsonl', {'event': str})


def _read_lines(workdir: str, name: str, form: Any) -> list[dict[str, Any]]:
  path = epath.Path(workdir) / name
  if not path.is_file():
    return []
  text = files.read_text(path)
  return [files.parse_json(line, path, form=form) for line in text.splitlines()]


def _append(workdir: str, name: str, line: Mapping[str, Any]) -> None:
  if jax.process_index():
    return  # it would read what process 0 is replacing
  path = epath.Path(workdir) / name
  before = files.read_text(path) if path.is_file() else ''
  _replace(workdir, name, before + json.dumps(line) + '\n')


def _replace(workdir: str, name: str, text: str) -> None:
  """Writes a file of the folder, from process 0."""
  if jax.process_index() == 0:
    files.write_text(epath.Path(workdir) / name, text)
