"""ImageNet at 256x256: the paper's class-conditional runs (table 2).

Options: size=B|L|XL, debug (a few steps of a tiny network on the digits).
"""

from pixeldit_jax.train import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/imagenet256.py:size=L`."""
  options = defaults.parse_options(arg, size='XL', debug=False)
  config = defaults.get_config()
  config.steps = 400_000  # 80 epochs
  config.model.update(defaults.size_of(options.size))
  config.model.update(
    dtype='bfloat16', patch_remat='matmuls', pixel_remat='full'
  )
  config.data.update(source='tfds:imagenet2012:train', resolution=256)
  config.mesh.update(data=1, fsdp=-1)
  if options.debug:
    defaults.make_debug(config)
  return config
