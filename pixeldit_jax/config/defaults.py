"""A configuration with every key, and what the files of `configs/` share.

The keys with their defaults and meanings are in `keys`. The options of a file
are what follows the colon in `--config=FILE:size=B,debug`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from pixeldit_jax.config.keys import JUDGES, KEYS, RANDOM
from pixeldit_jax.errors import UserError


def get_config() -> ConfigDict:
  """Every key there is, with the paper's values for ImageNet at 256."""
  values: dict[str, Any] = {}
  for key in KEYS:
    *path, last = key.name.split('.')
    node = values
    for name in path:
      node = node.setdefault(name, {})
    optional = key.default is None
    node[last] = config_dict.placeholder(float) if optional else key.default
  return ConfigDict(values)


def parse_options(arg: str | None, **defaults) -> ConfigDict:
  """Reads the options after the colon.

  Args:
    arg: 'size=B,debug'; a name without a value means True.
    defaults: every option with its default; values take its type.

  Raises:
    UserError: an option that is not among the defaults, or another type.
  """
  options = ConfigDict(defaults)
  for part in filter(None, (arg or '').split(',')):
    name, _, value = part.partition('=')
    if name not in options:
      raise UserError(
        f'config option {name!r} is not known; there are {sorted(defaults)}.'
      )
    options[name] = _parse(part, value, type(defaults[name]))
  return options


def _parse(part: str, value: str, kind: type):
  """One value of an option."""
  if kind is bool:
    if value not in ('', 'True', 'False'):
      raise UserError(f'config option {part!r}: True or False.')
    return value != 'False'
  try:
    return kind(value)
  except ValueError as error:
    raise UserError(f'config option {part!r}: {error}.') from error


def preset_of(
  name: str, presets: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
  """One of the presets of a configuration file.

  Raises:
    UserError: there is none of that name.
  """
  if name not in presets:
    raise UserError(
      f'config option preset={name!r}: use one of {list(presets)}.'
    )
  return presets[name]


def make_debug(config: ConfigDict) -> None:
  """Shrinks any run to four steps of seconds on the embedded digits.

  Texts are words of captions of digits, and all images are squares.
  """
  config.steps = 4
  model, text = config.model, bool(config.model.text_width)
  model.update(
    num_classes=0 if text else 10,
    text_width=16 if text else 0,
    text_tokens=8,
    in_channels=3,
    patch_size=7,
    width=32,
    heads=2,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=min(1, model.pixel_depth),
    pixel_attention_width=0,
    pixel_heads=0,
    position_grid=4 if model.position_grid else 0,
    bottleneck=min(8, model.bottleneck),
    branch_depth=min(1, model.branch_depth),
    context_tokens=min(2, model.context_tokens),
    context_start=min(1, model.context_start),
    grounding_width=min(16, model.grounding_width),
    grounding_heads=0,
  )
  config.latents.autoencoder = ''
  config.grounding.encoder = RANDOM if model.grounding_width else ''
  config.flow.stages = 2  # of 14 and 28 pixels, for PixelFlow
  config.data.update(
    source='words:captioned_digits' if text else 'digits',
    resolution=28,
    batch_size=8,
    buckets=False,
    text_encoder='',
  )
  # Networks of photographs would have to be fetched.
  config.repa.weight = 0.0
  for judge in JUDGES:
    config.perceptual[f'{judge}_weight'] = 0.0
  config.optimizer.update(
    warmup_steps=min(1, config.optimizer.warmup_steps), drop_step=0
  )
  config.sampler.update(steps=2, batch_size=8)
  config.checkpoint.every = 2
  config.log.update(every=1, samples_every=0)
