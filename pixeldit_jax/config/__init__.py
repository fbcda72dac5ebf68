"""The configuration of a run: every key, its default, its checks.

`configs/*.py` start from `get_config()` and change values. Commands take
`--config=configs/mnist.py:debug` and `--config.optimizer.learning_rate=1e-3`.
"""

from pixeldit_jax.config.defaults import (
  get_config,
  make_debug,
  parse_options,
  preset_of,
)
from pixeldit_jax.config.keys import (
  JUDGES,
  KEYS,
  RANDOM,
  STORED_FEATURES,
  Key,
)
from pixeldit_jax.config.validate import model_config, parse_steps, validate

__all__ = [
  'JUDGES',
  'KEYS',
  'RANDOM',
  'STORED_FEATURES',
  'Key',
  'get_config',
  'make_debug',
  'model_config',
  'parse_options',
  'parse_steps',
  'preset_of',
  'validate',
]
