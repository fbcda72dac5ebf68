"""Text to image at about 1024x1024, stage 3: all aspect ratios.

Starts from stage 2, --config.init_from=runs/t2i_stage2. Data as for it, with
pixeldit prepare-data --resolution=1024 --buckets.

Options: debug (a few steps of a tiny network on digits with captions, squares).
"""

from pixeldit_jax.configs import _t2i_base

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/t2i_1024_stage3.py --config.init_from=...`."""
  options = defaults.parse_options(arg, debug=False)
  config = _t2i_base.get_config()
  config.steps = 100_000
  config.data.update(
    source='shards:/data/t2i1024_buckets',
    resolution=1024,
    batch_size=768,
    buckets=True,
  )
  config.flow.shift = 4.0
  config.optimizer.update(learning_rate=2e-5, clip_norm=0.1)
  config.sampler.update(guidance=2.75, shift=4.0, batch_size=16)
  if options.debug:
    defaults.make_debug(config)
  return config
