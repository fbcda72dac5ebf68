"""Trains a PixelDiT: --config=configs/mnist.py --workdir=runs/mnist.

Run again with the same workdir, it goes on from the newest checkpoint.
"""

import sys

import distributed
import feature_network
from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File of the run; --config.key=value changes one value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and logs; made if absent.'
)
flags.adopt_module_key_flags(distributed)
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
  if len(argv) > 1:
    sys.exit(f'train.py: {argv[1:]} are not flags; write --name=value.')
  # Imported here: --help has no need of them.
  from pixeldit_jax import sharding
  from pixeldit_jax.convert.vision import load_teacher
  from pixeldit_jax.eval.sample_grid import make_grid_evaluator
  from pixeldit_jax.train.config import validate
  from pixeldit_jax.train.loop import train
  from pixeldit_jax.train.metrics import start_log

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
    train(config, _WORKDIR.value, evaluators, teacher)
  except (
    ValueError,
    FileNotFoundError,
    ImportError,
    FloatingPointError,
  ) as error:
    sys.exit(f'train.py: {error}')


if __name__ == '__main__':
  app.run(main)
