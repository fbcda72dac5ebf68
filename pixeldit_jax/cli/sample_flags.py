"""Flags of `sample.py` and `evaluate.py`: which run, weights and sampler."""

from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from pixeldit_jax import settings
from pixeldit_jax.cli import config_flag, path_flag
from pixeldit_jax.errors import UserError
from pixeldit_jax.files import expand_user

if TYPE_CHECKING:  # --help loads neither
  from pixeldit_jax.run_context import RunContext
  from pixeldit_jax.train.checkpoint.restore import CheckpointRef

CONFIG = config_flag.define(
  'Takes its sampler from this file or run in place of that of --workdir, of '
  'the same network: imagenet256:preset=ep320. '
  '--config.sampler.guidance=2.5 changes one value of either.',
  required=False,
)
WORKDIR = path_flag.define(
  'workdir', None, 'Folder of the run.', schemes=path_flag.BUCKETS
)
SOURCE = path_flag.define(
  'source',
  None,
  'Released weights, as pixeldit convert takes them: --workdir is made of '
  'them first, where there is none yet.',
  schemes=path_flag.HUB,
)
LABELS = flags.DEFINE_string(
  'labels',
  None,
  'Classes, as 0,3,7 or 0-9 or cat,dog; used in turn. All by default.',
)
SEED = flags.DEFINE_integer('seed', 0, 'Of the noise.')
STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest by default.')
EMA = flags.DEFINE_bool('ema', True, 'Average of the weights, or the last.')
VERIFY = flags.DEFINE_enum(
  'verify',
  'checksums',
  ['checksums', 'sizes'],
  'How files of weights are compared with what was written: sizes reads none.',
)
ADAPTERS = flags.DEFINE_list(
  'adapters',
  [],
  'Files of adapters that are added to the weights, as a.safetensors=0.7 or '
  'a.safetensors (1); several are divided by commas.',
)
OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Samples of other settings in --out make room.'
)

# What may differ from the run that is sampled, as all of its sampler may.
_FREE = ('grounding.encoder', 'model.products')


def _read_config(workdir: str) -> ConfigDict:
  """The run's configuration, with the sampler and seed of the flags.

  Raises:
    MissingFileError: there is no run.
    UserError: a value that is not the sampler's.
  """
  overrides = config_flag.overrides()
  if SOURCE.value:
    _convert(SOURCE.value, workdir, overrides)
  config = config_flag.run_config(workdir)
  if CONFIG.present:
    _check_network(config, CONFIG.value)
    config.sampler.update(CONFIG.value.sampler)
  for key, value in overrides.items():
    there = settings.flatten(config.to_dict()).get(key, settings.ABSENT)
    free = key.startswith('sampler.') or key in _FREE
    if not free and value != there:
      raise UserError(
        f'--config.{key}: only --config.sampler values may differ from the '
        'run that is sampled, where --config.grounding.encoder is, and '
        '--config.model.products.'
      )
    config.update_from_flattened_dict({key: value})
  config.seed = SEED.value
  return config


def read_run() -> 'tuple[RunContext, CheckpointRef]':
  """The run, with the sampler and seed of the flags, and the weights.

  Raises:
    MissingFileError: there is no run.
    UserError: see `_read_config` and `RunContext.build`.
  """
  from pixeldit_jax.run_context import RunContext
  from pixeldit_jax.train.checkpoint.restore import CheckpointRef

  if WORKDIR.value is None:
    raise UserError('--workdir is missing: the folder of the run.')
  context = RunContext.build(_read_config(WORKDIR.value))
  adapters = tuple(map(_read_scale, map(expand_user, ADAPTERS.value)))
  return context, CheckpointRef(
    WORKDIR.value,
    STEP.value,
    EMA.value,
    VERIFY.value == 'checksums',
    adapters,
  )


def _read_scale(text: str) -> tuple[str, float]:
  """'a.safetensors=0.7' to the path and the scale."""
  path, _, scale = text.partition('=')
  try:
    return path, float(scale or 1)
  except ValueError:
    raise UserError(
      f'--adapters={text}: the scale is a number, as in a.safetensors=0.7.'
    ) from None


def _convert(source: str, workdir: str, overrides: dict[str, object]):
  """Makes the workdir of released weights, if it is not there."""
  import jax
  from etils import epath

  from pixeldit_jax.train.checkpoint import released
  from pixeldit_jax.train.run.workdir import read_history

  if epath.Path(workdir).exists():
    history = read_history(workdir)
    if not history or history[0].get('source') != released.address(source):
      raise UserError(
        f'--source={source} with a --workdir={workdir} that is of something '
        'else: give another --workdir, or no --source.'
      )
  elif jax.process_count() > 1:
    raise UserError('--source: run pixeldit convert first, in one process.')
  elif CONFIG.present:
    released.to_workdir(source, workdir, CONFIG.value)
  else:
    config = released.infer_run(source, overrides)
    released.to_workdir(source, workdir, config)


def _check_network(config: ConfigDict, asked: ConfigDict):
  """Raises UserError if --config is of another network than the run."""
  from pixeldit_jax.train.run.workdir import PERFORMANCE_KEYS

  model = {f'model.{key}' for key in asked.model} - set(PERFORMANCE_KEYS)
  different = settings.differences(
    settings.flatten(config.to_dict()),
    settings.flatten(asked.to_dict()),
    model | {'data.resolution'},
  )
  if different:
    raise UserError(
      f'--config is of another network than the run in {WORKDIR.value}:\n'
      f'{settings.describe(different)}\nGive the file and the options that the '
      'run was made with, as size=L, or leave --config out: the run knows its '
      'own sampler.'
    )
