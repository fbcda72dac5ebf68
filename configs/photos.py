"""Your own pictures: what is not given is chosen from them and the machine.

  pixeldit train --config=photos --config.data.source=FOLDER --workdir=runs/mine

Classes are the folders in it, captions the texts beside the pictures; or there
are neither. What was chosen is printed as flags. Options: minutes, about how
long it trains (30); debug (a few steps of a tiny network on the digits).
"""

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=photos` or `photos:minutes=120`."""
  options = defaults.parse_options(arg, minutes=30.0, debug=False)
  config = defaults.get_config()
  config.fit_minutes = options.minutes
  config.flow.shift = 2.0  # as the digits: noisy times decide on the whole
  config.optimizer.update(
    learning_rate=1e-3, schedule='cosine', warmup_steps=50, beta2=0.99
  )
  config.ema.decay = 0.998
  config.sampler.update(
    steps=25,
    guidance=2.0,
    interval=(0.0, 1.0),
    shift_patches=True,
    batch_size=16,
  )
  config.log.update(every=50)
  if options.debug:
    config.fit_minutes = 0.0
    defaults.make_debug(config)
  return config
