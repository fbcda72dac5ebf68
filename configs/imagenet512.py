"""ImageNet at 512x512, from the configuration at 256.

Options: size=B|L|XL, debug (a few steps of a tiny network on the digits).
"""

from pixeldit_jax.train import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/imagenet512.py:size=L`."""
  options = defaults.parse_options(arg, size='XL', debug=False)
  config = defaults.get_config()
  config.steps = 4_250_000  # 850 epochs
  config.model.update(defaults.size_of(options.size))
  config.model.update(dtype='bfloat16', patch_remat='full', pixel_remat='full')
  config.data.update(source='tfds:imagenet2012:train', resolution=512)
  config.flow.shift = 3.0
  config.optimizer.clip_norm = 0.5
  config.sampler.update(guidance=3.5, shift=2.0)
  config.mesh.update(data=1, fsdp=-1)
  if options.debug:
    defaults.make_debug(config)
  return config
