"""Text to image at 512x512, stage 1: squares, aligned with DINOv2 (REPA).

Data: pixeldit prepare-data --resolution=512, then pixeldit encode-text
--encoder=google/gemma-2-2b-it --instruction=default; name the folder by
--config.data.source=shards:/path. --config.optimizer.name=adamw in place of
CAME.

Options: debug (a few steps of a tiny network on digits with captions).
"""

from pixeldit_jax.configs import _t2i_base

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/t2i_512_stage1.py`."""
  options = defaults.parse_options(arg, debug=False)
  config = _t2i_base.get_config()
  config.steps = 400_000
  config.data.source = 'shards:/data/t2i512'
  config.repa.update(weight=0.5, block=6, teacher='facebook/dinov2-base')
  if options.debug:
    defaults.make_debug(config)
  return config
