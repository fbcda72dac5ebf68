"""Trains a PixelDiT: --config=configs/mnist.py --workdir=runs/mnist.

Run again with the same workdir, it goes on from the newest checkpoint. SIGTERM,
or Ctrl-C once, saves and ends with exit code 75; Ctrl-C twice ends at once. A
file named `trace` in the workdir of a running job asks for a profiler trace.
"""

import sys

from absl import flags
from ml_collections import config_flags

from pixeldit_jax.cli import cluster_flags, run_command
from pixeldit_jax.eval import feature_networks

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File of the run; --config.key=value changes one value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and logs; made if absent.'
)
_ALLOW_CHANGE = flags.DEFINE_list(
  'allow_change',
  [],
  'Keys that may differ from those the run was started with though they change '
  'what it is, as in data.source,data.batch_size.',
)
flags.adopt_module_key_flags(cluster_flags)
flags.mark_flags_as_required(['config', 'workdir'])


def main():
  # Imported here: --help has no need of them.
  from pixeldit_jax import sharding
  from pixeldit_jax.config import validate
  from pixeldit_jax.eval.sample_grid_evaluator import make_grid_evaluator
  from pixeldit_jax.train.loop import train
  from pixeldit_jax.train.metrics import start_log
  from pixeldit_jax.train.repa import load_teacher
  from pixeldit_jax.train.run.preemption import EXIT_STOPPED, Stopped

  cluster_flags.initialize()
  start_log()
  config = _CONFIG.value
  try:
    validate(config)
    teacher = load_teacher(config)
    mesh = sharding.make_mesh(config.mesh)
    evaluators = []
    if config.log.samples_every:
      every = config.log.samples_every
      evaluators.append((every, make_grid_evaluator(config, mesh)))
    if config.eval.every:
      evaluator = feature_networks.make_evaluator(config, mesh)
      evaluators.append((config.eval.every, evaluator))
    train(config, _WORKDIR.value, evaluators, teacher, _ALLOW_CHANGE.value)
  except Stopped as stopped:
    print(f'train.py: {stopped}')
    sys.exit(EXIT_STOPPED)
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    sys.exit(f'train.py: {error}')


if __name__ == '__main__':
  run_command.run(main)
