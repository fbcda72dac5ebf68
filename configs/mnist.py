"""5,000 MNIST digits on a laptop: the quickstart, minutes on two cores.

Options: debug (a few steps of a tiny network).
"""

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/mnist.py` or `configs/mnist.py:debug`."""
  options = defaults.parse_options(arg, debug=False)
  config = defaults.get_config()
  config.steps = 1600
  config.model.update(
    num_classes=10,
    patch_size=7,
    width=128,
    heads=4,
    patch_depth=4,
    pixel_width=8,
    pixel_depth=2,
    scan=False,
  )
  config.data.update(source='digits', resolution=28, batch_size=32)
  config.flow.shift = 3.0  # noisy times decide whether a digit holds together
  config.optimizer.update(
    learning_rate=3e-3, schedule='cosine', warmup_steps=50, beta2=0.99
  )
  config.ema.decay = 0.995
  config.sampler.update(
    steps=25, guidance=3.0, interval=(0.0, 1.0), batch_size=100
  )
  config.checkpoint.update(every=250, keep=2)
  config.log.update(every=50, samples_every=0)
  if options.debug:
    defaults.make_debug(config)
  return config
