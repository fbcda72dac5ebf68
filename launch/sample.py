"""Samples images from a run: --workdir=runs/mnist --out=samples.

Writes samples.png (a grid), images/000000.png and on, and samples.npz
(uint8 'arr_0' [N, H, W, 3], the form of the ADM evaluation suite, and the
labels as 'arr_1'). Sample i depends on the seed and i alone.
"""

import pathlib
import sys

import distributed
from absl import app, flags
from ml_collections import config_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULTS = ROOT / 'pixeldit_jax' / 'train' / 'config.py'

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  str(DEFAULTS),
  'Takes its sampler from this file in place of that of the run. '
  '--config.sampler.guidance=2.5 changes one value of either.',
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_OUT = flags.DEFINE_string('out', None, 'Folder to write to; made if absent.')
_NUM_SAMPLES = flags.DEFINE_integer('num_samples', 100, 'Images to make.')
_LABELS = flags.DEFINE_string(
  'labels',
  None,
  'Classes, as 0,3,7 or 0-9; used in turn. All classes by default.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the noise.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest by default.')
_EMA = flags.DEFINE_bool('ema', True, 'Average of the weights, or the last.')
flags.adopt_module_key_flags(distributed)
flags.mark_flags_as_required(['workdir', 'out'])


def main(argv):
  if len(argv) > 1:
    sys.exit(f'sample.py: {argv[1:]} are not flags; write --name=value.')
  from pixeldit_jax.eval.sample_set import parse_labels, write_sample_set
  from pixeldit_jax.train.config import validate
  from pixeldit_jax.train.metrics import start_log
  from pixeldit_jax.train.workdir import read_config

  distributed.initialize()
  start_log()
  try:
    config = read_config(_WORKDIR.value)
    if flags.FLAGS['config'].present:
      config.sampler.update(_CONFIG.value.sampler)
    overrides = config_flags.get_override_values(flags.FLAGS['config'])
    for key, value in overrides.items():
      if not key.startswith('sampler.'):
        raise ValueError(
          f'--config.{key}: only --config.sampler values may differ from the '
          'run that is sampled.'
        )
      config.update_from_flattened_dict({key: value})
    config.seed = _SEED.value
    validate(config)
    labels = parse_labels(
      _LABELS.value, config.model.num_classes, _NUM_SAMPLES.value
    )
    write_sample_set(
      config,
      _WORKDIR.value,
      _OUT.value,
      labels,
      ema=_EMA.value,
      step=_STEP.value,
    )
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'sample.py: {error}')


if __name__ == '__main__':
  app.run(main)
