"""Samples images from a run: --workdir=runs/mnist --out=samples.

Writes samples.png (a grid), images/000000.png and on, and samples.npz
(uint8 'arr_0' [N, H, W, 3], the form of the ADM evaluation suite, and the
labels as 'arr_1'). Sample i depends on the seed and i alone. Stopped and run
again, it goes on where it was.

--trajectory also shows how the first sample comes out of the noise:
trajectory.png is animated, trajectory_strip.png a row of moments.
"""

import pathlib
import sys

import distributed
import sample_flags
from absl import app, flags

_OUT = flags.DEFINE_string('out', None, 'Folder to write to; made if absent.')
_NUM_SAMPLES = flags.DEFINE_integer('num_samples', 100, 'Images to make.')
_TRAJECTORY = flags.DEFINE_bool('trajectory', False, 'Draw one sampling path.')
flags.adopt_module_key_flags(distributed)
flags.adopt_module_key_flags(sample_flags)
flags.mark_flags_as_required(['workdir', 'out'])


def main(argv):
  if len(argv) > 1:
    sys.exit(f'sample.py: {argv[1:]} are not flags; write --name=value.')
  import jax

  from pixeldit_jax.eval import sample_set, trajectory
  from pixeldit_jax.train.metrics import start_log

  distributed.initialize()
  start_log()
  out = pathlib.Path(_OUT.value)
  weights = dict(ema=sample_flags.EMA.value, step=sample_flags.STEP.value)
  options = dict(labels=sample_flags.LABELS.value, **weights)
  try:
    config = sample_flags.read_config()
    sample_set.make_sample_set(
      config,
      sample_flags.WORKDIR.value,
      out / 'samples.npz',
      _NUM_SAMPLES.value,
      overwrite=sample_flags.OVERWRITE.value,
      **options,
    )
    if jax.process_index() == 0:
      sample_set.write_pngs(out / 'images', out / 'samples.npz')
      sample_set.write_grid(out / 'samples.png', out / 'samples.npz')
    if _TRAJECTORY.value:
      trajectory.draw_path(config, sample_flags.WORKDIR.value, out, **options)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'sample.py: {error}')


if __name__ == '__main__':
  app.run(main)
