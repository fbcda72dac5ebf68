"""5,000 MNIST digits on a laptop: the quickstart, minutes on two cores.

Options: model=pixeldit|pixeldit2|deco|pixnerd|flatdit|jit|pmf|dit|pixelflow;
debug (a few steps of a tiny network).
"""

from pixeldit_jax.configs import _digits_base

from pixeldit_jax import config as defaults
from pixeldit_jax.config import family_recipes


def get_config(arg: str | None = None):
  """`--config=configs/mnist.py` or `configs/mnist.py:debug`."""
  options = defaults.parse_options(arg, model='pixeldit', debug=False)
  config = _digits_base.get_config()
  config.steps = 1600
  config.model.update(num_classes=10, patch_size=7)
  config.data.update(source='digits', resolution=28)
  config.sampler.guidance = 3.0
  config.checkpoint.every = 250
  if options.model != 'pixeldit':
    family_recipes.digits(config, options.model)
  if options.debug:
    defaults.make_debug(config)
  return config
