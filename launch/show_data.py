"""Draws the images that a run would train on, with their labels.

python launch/show_data.py --config=configs/mnist.py --out=data.png
"""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File of the run; --config.key=value changes one value.'
)
_OUT = flags.DEFINE_string('out', 'data.png', 'Picture to write.')
_COUNT = flags.DEFINE_integer('count', 64, 'Images to draw.', lower_bound=1)
flags.mark_flags_as_required(['config'])


def main(argv):
  if len(argv) > 1:
    sys.exit(f'show_data.py: {argv[1:]} are not flags; write --name=value.')
  # Imported here: --help has no need of them.
  from pixeldit_jax.data import contact_sheet
  from pixeldit_jax.data.buckets import make_bucket_pipeline
  from pixeldit_jax.data.pipeline import make_pipeline
  from pixeldit_jax.data.sources import open_source

  data, seed = _CONFIG.value.data, _CONFIG.value.seed
  try:
    source = open_source(data.source)
    source.check(resolution=data.resolution)
    options = dict(batch_size=data.batch_size, seed=seed)
    options |= {k: data[k] for k in ('num_threads', 'num_workers', 'prefetch')}
    if getattr(source, 'buckets', ()):
      batches = make_bucket_pipeline(source, **options)
    else:
      batches = make_pipeline(source, resolution=data.resolution, **options)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'show_data.py: {error}')
  images, titles = [], []
  while len(images) < _COUNT.value:
    batch = next(batches)
    names = [source.class_names[k] if k >= 0 else '' for k in batch['label']]
    images += list(batch['image'])
    given = batch.get('caption', names)
    titles += [text or name for text, name in zip(given, names)]
  batches.close()
  sheet = contact_sheet.draw(images[: _COUNT.value], titles[: _COUNT.value])
  beside = f'{_OUT.value}.tmp'
  sheet.save(beside, 'PNG')
  os.replace(beside, _OUT.value)
  print(f'{len(source)} images; wrote {_OUT.value}')


if __name__ == '__main__':
  app.run(main)
