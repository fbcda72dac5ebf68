"""Digits in one evaluation: the quickstart's network, taken on by MeanFlow.

It starts from the run of configs/mnist.py in build/quickstart; another one by
--config.init_from=WORKDIR, or '' to start anew. Options: debug.
"""

from pixeldit_jax.configs import mnist

from pixeldit_jax import config as defaults


def get_config(arg: str | None = None):
  """`--config=configs/mnist_one_step.py`."""
  options = defaults.parse_options(arg, debug=False)
  config = mnist.get_config('debug' if options.debug else None)
  config.objective = 'mean_flow'
  config.model.mean_flow = 'added'
  config.flow.update(time_mean=-0.4, time_std=1.0)
  config.sampler.update(
    solver='jump', steps=1, guidance=4.5, interval=(0.0, 1.0)
  )
  if not options.debug:
    config.init_from = 'build/quickstart'
    config.steps = 2400
    config.optimizer.update(warmup_steps=50)
  return config
