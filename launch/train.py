"""Trains a PixelDiT: --config=configs/mnist.py --workdir=runs/mnist.

Run again with the same workdir, it goes on from the newest checkpoint. SIGTERM,
or Ctrl-C once, saves and ends with exit code 75; Ctrl-C twice ends at once. A
file named `trace` in the workdir of a running job asks for a profiler trace.
"""

import sys

import command
import distributed
import feature_network
from absl import flags
from ml_collections import config_flags

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
flags.adopt_module_key_flags(distributed)
flags.mark_flags_as_required(['config', 'workdir'])


def main():
  # Imported here: --help has no need of them.
  from pixeldit_jax import sharding
  from pixeldit_jax.convert.vision import load_teacher
  from pixeldit_jax.eval.sample_grid import make_grid_evaluator
  from pixeldit_jax.train.config import validate
  from pixeldit_jax.train.loop import train
  from pixeldit_jax.train.metrics import start_log
  from pixeldit_jax.train.signals import EXIT_STOPPED, Stopped

  distributed.initialize()
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
      evaluator = feature_network.make_evaluator(config, mesh)
      evaluators.append((config.eval.every, evaluator))
    train(config, _WORKDIR.value, evaluators, teacher, _ALLOW_CHANGE.value)
  except Stopped as stopped:
    print(f'train.py: {stopped}')
    sys.exit(EXIT_STOPPED)
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    sys.exit(f'train.py: {error}')


if __name__ == '__main__':
  command.run(main)
