"""What a network is trained towards: the losses of a step but alignment.

Those of flow matching and of frequencies compare velocities, whatever the
network predicts; perceptual ones compare images, in the eyes of frozen networks
and only where little noise is left (PixelGen). All give one number for each
example, and go with any network.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from ml_collections import ConfigDict

from pixeldit_jax import files
from pixeldit_jax.config import JUDGES
from pixeldit_jax.convert.convnext import load_convnext
from pixeldit_jax.convert.lpips import load_lpips
from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.encoders.convnext import ConvNeXtConfig
from pixeldit_jax.encoders.frozen import Judge, JudgeConfig, with_weights
from pixeldit_jax.encoders.lpips import LPIPSConfig
from pixeldit_jax.encoders.vision import image_features
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.frequency import frequency_loss, frequency_weights
from pixeldit_jax.flow.loss import flow_matching_loss
from pixeldit_jax.flow.prediction import as_velocity, target_velocity
from pixeldit_jax.flow.repa import repa_loss
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.typing import Array, Float, PyTree

Losses = dict[str, Float[Array, 'B']]


def load_judges(config: ConfigDict) -> dict[str, Judge]:
  """Reads the networks of the perceptual losses of a run, by loss.

  Raises:
    MissingFileError, UserError: see `load_lpips`, `load_vision` and
      `load_convnext`.
  """
  options, model = config.perceptual, config.model
  judges: dict[str, Judge] = {}
  if options.lpips_weight:
    judges['lpips'] = load_lpips(options.lpips, model.dtype)
  if options.dino_weight:
    judges['dino'] = load_vision(
      options.dino,
      keep=files.cache_folder(),
      dtype=model.dtype,
      scan=model.scan,
    )
  if options.convnext_weight:
    judges['convnext'] = load_convnext(options.convnext, model.dtype)
  return judges


def make_losses(
  context: RunContext, judges: Mapping[str, JudgeConfig]
) -> Callable[..., tuple[Float[Array, 'B'], Losses]]:
  """f(output, x, t, data, noise, weights of judges) -> sum, parts.

  The sum is weighted, its parts are given before their weights. 'loss' is that
  of flow matching; 'frequency' (DeCo's), 'lpips', 'dino' and 'convnext' are
  there where they are asked for. The arguments of f are the network's output at
  x, which is between data and noise at the time t.

  Raises:
    UserError: a judge is missing.
  """
  config = context.config
  prediction, flow = config.model.prediction, config.flow
  table = frequency_weights(
    flow.frequency_quality, flow.frequency_mode, flow.frequency_gamma
  )

  for name in JUDGES:
    if config.perceptual[f'{name}_weight'] and name not in judges:
      raise UserError(
        f'perceptual.{name}_weight is above 0, but there is no network: '
        f'load_judges reads that of perceptual.{name}; or set it to 0.'
      )

  def losses(output, x, t, data, noise, weights):
    velocity = as_velocity(prediction, output, x, t)
    target = target_velocity(prediction, data, noise, x, t)
    total = flow_matching_loss(velocity, target)
    found = dict(loss=total)
    if flow.frequency_weight:
      found['frequency'] = frequency_loss(velocity, target, table)
      total += flow.frequency_weight * found['frequency']
    if judges:
      left = (1 - t)[:, None, None, None]
      image = output if prediction == 'image' else x + left * velocity
      seen = t >= config.perceptual.start
      for name, judge in judges.items():
        value = distance(judge, weights[name], image, data, context.model)
        found[name] = jnp.where(seen, value, 0.0)
        total += config.perceptual[f'{name}_weight'] * found[name]
    return total, found

  return losses


def distance(
  config: JudgeConfig,
  weights: PyTree,
  image: Float[Array, 'B H W C'],
  data: Float[Array, 'B H W C'],
  model: ModelConfig,
) -> Float[Array, 'B']:
  """How different two images look to a judge."""
  color = (*data.shape[:3], 3)
  colored = [jnp.broadcast_to(a, color) for a in (image, data)]
  if isinstance(config, LPIPSConfig):
    return with_weights(config, weights)(*colored)
  if isinstance(config, ConvNeXtConfig):
    return with_weights(config, weights).distance(*colored)
  network = with_weights(config, weights)
  seen, expected = (
    image_features(network, a, model.patch_size) for a in (image, data)
  )
  grid = model.grid(*data.shape[1:3])
  return repa_loss(seen.astype(jnp.float32), expected, grid, grid)
