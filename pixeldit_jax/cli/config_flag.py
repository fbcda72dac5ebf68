"""The flag --config: a packaged configuration, a file, or an earlier run.

  --config=imagenet256:size=XL            a file of configs/, by its name
  --config=mine/imagenet256.py:size=XL    any Python file with get_config()
  --config=runs/xl256                     what that run was started with

What follows the colon goes to get_config(). --config.key=value changes one
value, whichever way the others were given.
"""

import importlib.util
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import pixeldit_jax.configs
from pixeldit_jax.cli import run_command
from pixeldit_jax.errors import UserError

DEFAULTS = pathlib.Path(__file__).resolve().parents[1] / 'config/defaults.py'
PACKAGED = pathlib.Path(next(iter(pixeldit_jax.configs.__path__)))
flags.disclaim_key_flags()  # --config belongs to the command that defines it


def define(
  description: str, required: bool = True
) -> flags.FlagHolder[ConfigDict]:
  """Defines --config for a command.

  Args:
    description: what the command does with it.
    required: whether it must be given. Else its value is None without it, or
      the defaults if there are --config.key=value.
  """
  # The defaults take seconds to load, which --help should not.
  overridden = any(re.match(r'--?(no)?config\.', arg) for arg in sys.argv)
  default = str(DEFAULTS) if overridden and not required else None
  try:
    holder = config_flags.DEFINE_config_file('config', default, description)
  except (AttributeError, KeyError) as error:
    # With a default, overrides are read here, before the command runs.
    name = pathlib.Path(sys.argv[0]).stem.removeprefix('pixeldit-')
    sys.exit(f'{name.replace("_", "-")}: {run_command.unknown_key(error)}')
  flags.FLAGS['config'].parser = _ConfigParser()
  if required:
    flags.mark_flag_as_required('config')
  return holder


def overrides() -> dict[str, Any]:
  """The values of all --config.key=value, by key."""
  flag = flags.FLAGS['config']
  return {} if flag.value is None else config_flags.get_override_values(flag)


def fit(config: ConfigDict, workdir: str) -> None:
  """Chooses what --config=photos leaves open, or takes it from the run.

  Args:
    config: of the flag; changed.
    workdir: folder of the run, which keeps what was chosen at its first start.

  Raises:
    UserError: see `config.fit_to_data`.
  """
  from etils import epath

  from pixeldit_jax.config.fit_to_data import fit_to_data, specification
  from pixeldit_jax.storage import buckets

  buckets.check(workdir)
  given = overrides()
  if not (epath.Path(workdir) / 'config.json').is_file():
    fit_to_data(config, given.keys())
    return
  config.update(run_config(workdir).to_dict())
  if 'data.source' in given:
    given['data.source'] = specification(given['data.source'])
  config.update_from_flattened_dict(given)


def load(argument: str) -> ConfigDict:
  """Returns the configuration that `--config=argument` names.

  Raises:
    UserError: it names none, or its options are wrong.
    RuntimeError: get_config() failed; its own error is the cause.
  """
  name, colon, options = argument.partition(':')
  path = _find_file(name)
  if path is None:
    return run_config(_find_run(argument))
  try:
    get_config = _import_file(path).get_config
    return get_config(options) if colon else get_config()
  except UserError:
    raise
  except Exception as error:
    # absl would turn a ValueError or TypeError into one about the flag.
    raise RuntimeError(f'{path} could not be read') from error


def run_config(workdir: str) -> ConfigDict:
  """Returns the configuration of a run.

  Keys that are younger than the run have their defaults, which are what the
  run did without them.

  Raises:
    MissingFileError: the folder holds no run.
  """
  from pixeldit_jax.config import get_config
  from pixeldit_jax.train.run.workdir import read_config

  config = get_config()
  config.update(read_config(workdir))  # lists of JSON become tuples again
  return config


def packaged_names() -> list[str]:
  """The names that --config takes without a path."""
  names = (path.stem for path in PACKAGED.glob('*.py'))
  return sorted(name for name in names if not name.startswith('_'))


class _ConfigParser(flags.ArgumentParser):
  """Reads the value of --config."""

  def parse(self, argument: str) -> ConfigDict:
    config = load(argument)
    config.lock()
    return config


def _find_file(name: str) -> pathlib.Path | None:
  """The file of a path, or of a packaged name; None if there is none."""
  if pathlib.Path(name).is_file():
    return pathlib.Path(name)
  stem = name.removeprefix('configs/').removesuffix('.py')
  return PACKAGED / f'{stem}.py' if stem in packaged_names() else None


def _find_run(workdir: str) -> str:
  if '://' in workdir:
    from etils import epath

    from pixeldit_jax.storage import buckets

    buckets.check(workdir)
    folder = epath.Path(workdir)
  else:
    folder = pathlib.Path(workdir)
  if not (folder / 'config.json').is_file():
    raise UserError(
      f'--config={workdir} is no file, no folder of a run, and no known '
      f'configuration: {", ".join(packaged_names())}.'
    )
  return workdir


def _import_file(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location('config_file', path)
  if spec is None or spec.loader is None:
    raise UserError(f'--config={path} is no Python file (.py).')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(
      f'--config={path} defines no get_config(); configs/mnist.py shows how.'
    )
  return module
