"""What the two recipes for handwritten digits on a laptop share."""

from ml_collections import ConfigDict

from pixeldit_jax import config as defaults


def get_config() -> ConfigDict:
  """The defaults of `pixeldit_jax.config` with a small network for digits."""
  config = defaults.get_config()
  config.model.update(
    width=128,
    heads=4,
    patch_depth=4,
    pixel_width=8,
    pixel_depth=2,
    scan=False,
  )
  config.data.batch_size = 32
  config.flow.shift = 3.0  # noisy times decide whether a digit holds together
  config.optimizer.update(
    learning_rate=3e-3, schedule='cosine', warmup_steps=50, beta2=0.99
  )
  config.ema.decay = 0.995
  config.sampler.update(steps=25, interval=(0.0, 1.0), batch_size=100)
  config.checkpoint.keep = 2
  config.log.update(every=50, samples_every=0)
  return config
