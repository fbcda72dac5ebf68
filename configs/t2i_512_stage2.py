"""Text to image at about 512x512, stage 2: all aspect ratios, without REPA.

Starts from stage 1, --config.init_from=runs/t2i_stage1. Data as for it, with
pixeldit prepare-data --resolution=512 --buckets.

Options: debug (a few steps of a tiny network on digits with captions, squares).
"""

from pixeldit_jax.configs import _t2i_base

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/t2i_512_stage2.py --config.init_from=...`."""
  options = defaults.parse_options(arg, debug=False)
  config = _t2i_base.get_config()
  config.steps = 100_000  # not in the paper
  config.data.update(source='shards:/data/t2i512_buckets', buckets=True)
  if options.debug:
    defaults.make_debug(config)
  return config
