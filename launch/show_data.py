"""Draws the images that a run would train on, with their labels.

pixeldit show-data --config=mnist --out=data.png
"""

import contextlib

from absl import flags

from pixeldit_jax import outputs
from pixeldit_jax.cli import config_flag, path_flag, run_command

_CONFIG = config_flag.define(
  'A name (imagenet256:size=XL), a file or a run; --config.key=value changes '
  'one value.'
)
_OUT = path_flag.define('out', 'data.png', 'Picture to write.')
_COUNT = flags.DEFINE_integer('count', 64, 'Images to draw.', lower_bound=1)


def main():
  # Imported here: --help has no need of them.
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.data.pipeline.batches import make_batches
  from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
  from pixeldit_jax.data.pipeline.sized_source import with_buckets
  from pixeldit_jax.data.sources.open_source import open_source
  from pixeldit_jax.images.grid import write_png

  start_log()
  outputs.check([_OUT.value])
  data = _CONFIG.value.data
  source = open_source(data.source)
  source.check(resolution=data.resolution)
  source = with_buckets(source, _CONFIG.value)
  batches = make_batches(source, LoaderOptions.from_config(_CONFIG.value))
  sheet = _draw(source, batches, _COUNT.value)
  with outputs.replacing(_OUT.value) as made:
    write_png(made, sheet)
  print(f'{len(source)} images; wrote {_OUT.value}')
  if data.flip:
    print('Training mirrors half of them.')


def _draw(source, batches, count):
  """The first images of the batches, with their captions or classes."""
  from pixeldit_jax.images import contact_sheet

  images: list = []
  titles: list[str] = []
  with contextlib.closing(batches):
    while len(images) < count:
      batch = next(batches)
      names = [source.class_names[k] if k >= 0 else '' for k in batch['label']]
      images += list(batch['image'])
      given = batch.get('caption', names)
      titles += [text or name for text, name in zip(given, names)]
  lines = 3 if source.captions else 1
  return contact_sheet.draw(images[:count], titles[:count], lines=lines)


if __name__ == '__main__':
  run_command.run(main)
