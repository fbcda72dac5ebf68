"""Checks a configuration before anything is built.

The type and range of every value are those of the table in `keys`; here are
the rules that hold between several keys.
"""

import dataclasses
import difflib
import math
import re

from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config.keys import JUDGES, KEYS, STORED_FEATURES
from pixeldit_jax.data import captions
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import Stages
from pixeldit_jax.metrics.table import (
  HELD_OUT_LOSS,
  OF_CAPTIONS,
  metrics_in_training,
)
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.quantized_product import check_installed
from pixeldit_jax.samplers.guidance import check_interval
from pixeldit_jax.settings import flatten


def validate(config: ConfigDict) -> None:
  """Checks all that can be known before anything is built.

  Raises:
    UserError: the first key whose value cannot be, and what would do; or a
      package that it needs is not installed.
  """
  _check_values(config)
  model = model_config(config)
  check_installed(model.products)
  model.grid(config.data.resolution, config.data.resolution)
  sharding.make_rules(config.mesh)
  check_interval(config.sampler.interval)
  parse_steps(config.log.trace)
  _check_data(config)
  _check_optimizer(config)
  _check_objective(config)
  _check_latents(config)
  _check_diffusion(config)
  _check_perceptual(config)
  _check_mean_flow(config)
  if 0 < config.data.held_out < config.data.batch_size:
    raise UserError(
      f'data.held_out={config.data.held_out}: their loss is that of batches, '
      f'so as many as data.batch_size={config.data.batch_size} at least.'
    )
  if config.eval.patience and not config.data.held_out:
    raise UserError(
      f'eval.patience={config.eval.patience} without data.held_out: it looks '
      'at the loss on images that are not trained on; say how many.'
    )
  if config.lora.rank and not config.init_from:
    raise UserError(
      f'lora.rank={config.lora.rank} without init_from: adapters are of a '
      'network that is trained; --config.init_from=RUN names it.'
    )
  if config.repa.weight:
    _check_repa(config, model)
  if config.eval.every:
    _check_eval(config)
  if config.checkpoint.best:
    _check_best(config)


def model_config(config: ConfigDict) -> ModelConfig:
  """`config.model` as the network takes it.

  Raises:
    UserError: unknown keys, or values that do not go together.
  """
  known = {field.name for field in dataclasses.fields(ModelConfig)}
  known = {name for name in known if not name.startswith('lora_')}
  unknown = set(config.model) - known
  if unknown:
    raise UserError(
      f'config.model has unknown keys {sorted(unknown)}; there are '
      f'{sorted(known)}.'
    )
  lora = {f'lora_{name}': value for name, value in config.lora.items()}
  return ModelConfig(**config.model, **lora)


def parse_steps(text: str) -> range:
  """'100-110' to range(100, 111), and '' to none.

  Raises:
    UserError: anything else.
  """
  if not text:
    return range(0)
  match = re.fullmatch(r'(\d+)-(\d+)', text)
  if not match or int(match[1]) > int(match[2]) or not int(match[1]):
    raise UserError(
      f"log.trace={text!r}: first and last step, as in '100-110', or ''."
    )
  return range(int(match[1]), int(match[2]) + 1)


def _check_values(config: ConfigDict) -> None:
  """Raises UserError unless all keys are there, and each has a fit value."""
  values = flatten(config.to_dict())
  known = {key.name: key for key in KEYS}
  for name in values:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f'did you mean {near[0]}? ' if near else ''
      raise UserError(
        f'config.{name} is not known: {hint}All keys: configs/KEYS.md.'
      )
  for name, key in known.items():
    if name not in values:
      raise UserError(
        f'config.{name} is missing: start from get_config(), where it is '
        f'{key.default!r}.'
      )
    key.check(values[name])


def _check_data(config: ConfigDict) -> None:
  """Raises UserError for batches or captions that cannot be drawn."""
  weights = captions.parse_weights(config.data.caption_weights) or {}
  if not all(map(math.isfinite, weights.values())):
    raise UserError(
      f'data.caption_weights={config.data.caption_weights!r}: weights must be '
      'finite.'
    )
  if config.data.encode_texts and not (
    config.model.text_width and config.data.text_encoder
  ):
    raise UserError(
      'data.encode_texts=True with '
      f'data.text_encoder={config.data.text_encoder!r} and model.text_width='
      f'{config.model.text_width}: name an encoder, and its width.'
    )
  if config.data.batch_size % config.optimizer.accumulate:
    raise UserError(
      f'data.batch_size={config.data.batch_size} does not divide into '
      f'optimizer.accumulate={config.optimizer.accumulate} parts.'
    )


def _check_optimizer(config: ConfigDict) -> None:
  """Raises UserError for options of the optimizer that do not go together."""
  optimizer, repa = config.optimizer, config.repa
  if optimizer.warmup_steps >= config.steps:
    raise UserError(
      f'optimizer.warmup_steps={optimizer.warmup_steps} leaves none of '
      f'steps={config.steps}: warm up for less, or train for longer.'
    )
  if optimizer.drop_step and optimizer.schedule != 'constant':
    raise UserError(
      f'optimizer.drop_step={optimizer.drop_step} with optimizer.schedule='
      f'{optimizer.schedule!r}: only a constant rate drops; set one of them.'
    )
  if optimizer.moments != 'float32' and optimizer.name != 'adamw':
    raise UserError(
      f'optimizer.moments={optimizer.moments!r} with optimizer.name='
      f'{optimizer.name!r}: only the moments of adamw are rounded; set one of '
      'them.'
    )
  for name, value, limit, highest in (
    ('optimizer.drop_step', optimizer.drop_step, 'steps', config.steps),
    ('repa.decay_steps', repa.decay_steps, 'repa.stop_step', repa.stop_step),
  ):
    if value > highest:
      raise UserError(f'{name}={value}: at most {limit}={highest}.')


def _check_objective(config: ConfigDict) -> None:
  """Raises UserError for an objective that the network does not have."""
  flow, channels = config.flow, config.model.in_channels
  encoder, joint = config.grounding.encoder, config.grounding.joint_dropout
  if not config.model.grounding_width and (encoder or joint):
    given = f'encoder={encoder!r}' if encoder else f'joint_dropout={joint}'
    raise UserError(
      f'grounding.{given} with model.grounding_width=0: the network takes no '
      'features of an encoder; set the latter to their width, or drop the '
      'former.'
    )
  if flow.frequency_weight and channels != 3:
    raise UserError(
      f'flow.frequency_weight={flow.frequency_weight} with model.in_channels='
      f'{channels}: the frequency loss is of the brightness and the colours of '
      'RGB images; set it to 0.'
    )


def _check_latents(config: ConfigDict) -> None:
  """Raises UserError for what latents do not go with."""
  tile = config.sampler.decode_tile
  if not config.latents.autoencoder:
    if tile:
      raise UserError(
        f'sampler.decode_tile={tile}: nothing is decoded without '
        'latents.autoencoder; set it to 0.'
      )
    return
  for name, fit in (
    ('data.buckets', False),
    ('data.crop', 1.0),
    ('data.held_out', 0),
    ('model.grounding_width', 0),
  ):
    if (value := flatten(config.to_dict())[name]) != fit:
      raise UserError(
        f'{name}={value!r} with latents.autoencoder='
        f'{config.latents.autoencoder!r}: it needs pixels; leave one out.'
      )


def _check_diffusion(config: ConfigDict) -> None:
  """Raises UserError for what DiT's and PixelFlow's losses do not go with."""
  model, side = config.model, config.data.resolution
  noise, count = model.prediction == 'noise', config.flow.stages
  if not (noise or model.size_embed):
    return
  what = "prediction='noise'" if noise else 'size_embed=True'
  found = model.prediction, model.variance, model.size_embed
  if found not in (('noise', True, False), ('velocity', False, True)):
    raise UserError(
      f'model.{what} with model.prediction={model.prediction!r}, '
      f'model.variance={model.variance} and model.size_embed='
      f"{model.size_embed}: DiT has 'noise', True, False; PixelFlow "
      "'velocity', False, True."
    )
  for name, fit in (
    ('objective', 'flow_matching'),
    ('flow.noise_scale', 1.0),
    ('flow.frequency_weight', 0.0),
    ('repa.weight', 0.0),
    *((f'perceptual.{judge}_weight', 0.0) for judge in JUDGES),
    ('model.grounding_width', 0),
    ('data.held_out', 0),
  ):
    if (value := flatten(config.to_dict())[name]) != fit:
      raise UserError(
        f'{name}={value!r} with model.{what}: the loss of such a network is '
        f'its own alone; set {name}={fit!r}.'
      )
  if noise:
    return
  height, width = Stages(count).sides(side, side)[0]
  model_config(config).grid(height, width)
  part = config.data.batch_size // config.optimizer.accumulate
  if part % count:
    raise UserError(
      f'data.batch_size={config.data.batch_size} in parts of {part} with '
      f'flow.stages={count}: each part must be a multiple of the stages, which '
      'get as many images each.'
    )


def _check_perceptual(config: ConfigDict) -> None:
  """Raises UserError where there is nothing that judges the images."""
  options, channels = config.perceptual, config.model.in_channels
  for name, how in (
    ('lpips', 'FILE of its weights, or VGG_FILE,LPIPS_FILE'),
    ('dino', 'facebook/dinov2-base or FILE'),
    ('convnext', 'facebook/convnextv2-base-22k-224 or FILE'),
  ):
    weight = options[f'{name}_weight']
    if weight and not options[name]:
      raise UserError(
        f'perceptual.{name}_weight={weight} with perceptual.{name}={""!r}: '
        f'give perceptual.{name}={how}; or set the weight to 0.'
      )
    if weight and channels not in (1, 3):
      raise UserError(
        f'perceptual.{name}_weight={weight} with model.in_channels={channels}: '
        'the network judges images of 1 or 3 channels; set it to 0.'
      )


def _check_mean_flow(config: ConfigDict) -> None:
  """Raises UserError for average velocities of a network that has none."""
  inputs, solver = config.model.mean_flow, config.sampler.solver
  trained = config.objective == 'mean_flow'
  if (trained or solver == 'jump') and inputs == 'none':
    key = 'objective' if trained else 'sampler.solver'
    raise UserError(
      f'{key}={config.objective if trained else solver!r} with model.mean_flow='
      "'none': the network must be given its steps; set model.mean_flow="
      "'added', or 'tokens' for pMF."
    )
  if inputs == 'tokens' and not trained:
    raise UserError(
      f"model.mean_flow='tokens' with objective={config.objective!r}: pMF is "
      "trained by objective='mean_flow'."
    )
  if trained and (config.repa.weight or config.model.grounding_width):
    raise UserError(
      f"objective='mean_flow' with repa.weight={config.repa.weight} and "
      f'model.grounding_width={config.model.grounding_width}: average '
      'velocities are trained without teacher and encoder; set both to 0.'
    )


def _check_eval(config: ConfigDict) -> None:
  """Raises UserError where no evaluation can be had."""
  options = config.eval
  if not options.reference and options.features != 'digits':
    raise UserError(
      'eval.reference is empty: give what --reference of pixeldit evaluate '
      'takes, such as the statistics that its --make_reference wrote.'
    )


def _check_best(config: ConfigDict) -> None:
  """Raises UserError where no evaluation decides which checkpoint is best."""
  best, features = config.checkpoint.best, config.eval.features
  if best == HELD_OUT_LOSS and config.data.held_out:
    return
  if not config.eval.every:
    raise UserError(
      f'checkpoint.best={best!r} is a metric of evaluations: set eval.every '
      f"(or '{HELD_OUT_LOSS}' with data.held_out)."
    )
  known = metrics_in_training(features)
  if config.model.text_width:
    known = [name for name in known if name != 'class_agreement']
    known += OF_CAPTIONS if config.eval.captions and features != 'none' else ()
  if best not in known:
    raise UserError(
      f'checkpoint.best={best!r}: evaluations with eval.features={features!r} '
      f'give {", ".join(known)}.'
    )


def _check_repa(config: ConfigDict, model: ModelConfig) -> None:
  """Raises UserError where a run cannot be aligned with a teacher."""
  repa = config.repa
  if not repa.teacher:
    raise UserError(
      f'repa.weight={repa.weight} needs a teacher. Two ways to name one: '
      'repa.teacher=facebook/dinov2-base fetches it by name, where there is a '
      'network; repa.teacher=FILE takes model.safetensors of that repository, '
      'or the .pth of the authors. (repa.teacher=features takes features that '
      'pixeldit prepare-data stored, repa.teacher=efficientnet_lite0 a '
      'network that a package carries; repa.weight=0 trains without.)'
    )
  if repa.block > model.patch_depth:
    raise UserError(
      f'repa.block={repa.block}: between 1 and model.patch_depth='
      f'{model.patch_depth}.'
    )
  if model.in_channels not in (1, 3):
    raise UserError(
      f'repa.weight={repa.weight} with model.in_channels={model.in_channels}: '
      'teachers see images of 1 or 3 channels.'
    )
  for name, fit in (('flip', False), ('crop', 1.0)):
    value = config.data[name]
    if repa.teacher == STORED_FEATURES and value != fit:
      raise UserError(
        f'repa.teacher=features with data.{name}={value}: stored features are '
        'of the images as they are, not mirrored, the middle cut out. Set '
        f'data.{name}={fit}, or name a teacher.'
      )
