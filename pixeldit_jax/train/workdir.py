"""The folder of a run: its configuration, and what may change later.

config.json      what the run was started with
checkpoints/     one folder for each kept step
events/          TensorBoard
"""

import json

import clu.parameter_overview
import jax
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax.typing import PyTree

# What other values here mean is another run, not the same one continued.
FIXED = ('seed', 'model', 'data', 'flow', 'repa', 'ema')
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

  Raises:
    FileNotFoundError: there is no run.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'workdir {workdir} holds no run: {path} is absent. Give the --workdir '
      'that launch/train.py was given.'
    )
  return ConfigDict(json.loads(path.read_text()))


def open_workdir(workdir: str, config: ConfigDict) -> None:
  """Makes the folder of a new run, or checks that an old one is this run.

  Raises:
    ValueError: the folder holds a run of another configuration.
  """
  path = epath.Path(workdir) / 'config.json'
  if path.is_file():
    check_same_run(read_config(workdir), config, workdir)
  elif jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name('config.json.tmp')
    beside.write_text(config.to_json(indent=2) + '\n')
    beside.replace(path)


def write_overview(workdir: str, weights: PyTree) -> None:
  """Lists the weights for people."""
  table = clu.parameter_overview.get_parameter_overview(
    weights, include_stats=False
  )
  if jax.process_index() == 0:
    (epath.Path(workdir) / 'parameters.txt').write_text(table + '\n')


def check_same_run(old: ConfigDict, new: ConfigDict, workdir: str) -> None:
  """Raises ValueError that lists the fixed keys in which two runs differ."""
  before, now = _flat(old), _flat(new)
  changed = [
    f'{key}: {before.get(key, "absent")} there, {now.get(key, "absent")} here'
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key)
    and key.split('.')[0] in FIXED
    and key not in FREE
  ]
  if changed:
    raise ValueError(
      f'workdir {workdir} holds a run of another configuration:\n  '
      + '\n  '.join(changed)
      + '\nUse another --workdir, or the values of that run.'
    )


def _flat(config: ConfigDict) -> dict[str, object]:
  """'a.b' to values as JSON has them, where tuples are lists."""

  def walk(prefix, tree):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from walk(f'{prefix}{key}.', value)
      else:
        yield prefix + key, value

  return dict(walk('', json.loads(config.to_json())))
