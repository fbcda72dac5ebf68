"""The whole configuration of a run: defaults, options, checks.

`configs/*.py` start from `get_config()` and change values. Launchers take
`--config=configs/mnist.py:debug` and `--config.optimizer.learning_rate=1e-3`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from ml_collections import ConfigDict, config_dict

from pixeldit_jax import sharding
from pixeldit_jax.data import captions
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import SIZES, ModelConfig
from pixeldit_jax.samplers import grid, guidance, solvers

STORED = 'features'  # in place of a teacher: those beside the images
SCHEDULES = ('constant', 'cosine', 'linear')
OPTIMIZERS = ('adamw', 'came')
# Networks that metrics compare by, and what evaluations while training give.
FEATURES = {
  'inception': ('fid', 'sfid', 'inception_score'),
  'digits': ('frechet_distance', 'class_agreement', 'precision', 'recall'),
}


def get_config() -> ConfigDict:
  """Every key there is, with the paper's values for ImageNet at 256."""
  return ConfigDict(
    dict(
      seed=0,  # of weights, data order and noise
      steps=400_000,
      init_from='',  # workdir whose EMA a new run starts with; '' is random
      debug_nans=False,  # stops at the first NaN and names where it came from
      model=dataclasses.asdict(ModelConfig()),
      data=dict(
        source='',  # see data.sources: digits, folder:/path, shards:/path
        resolution=256,
        batch_size=256,  # of all devices together
        buckets=False,  # of aspect ratios, of about resolution**2 pixels
        text_encoder='',  # that the texts must be encoded by; '' is any
        caption_weights='',  # by kind, as human=1,long=3; '' is all alike
        caption_min_score=config_dict.placeholder(float),  # of captions used
        flip=False,  # mirror half of the images
        checksums=False,  # read all shards at the start, to be sure of them
        num_threads=0,  # that decode; 0 is one for each core
        num_workers=0,  # or in so many processes
        prefetch=4,  # batches
      ),
      flow=dict(
        shift=1.0,  # of training times; above 1 is noisier
        discrete_steps=0,  # times are multiples of 1 / n; 0 is any time
        label_dropout=0.1,  # or of the text
      ),
      repa=dict(
        weight=0.0,  # of the loss that aligns patch tokens with a teacher's
        block=8,  # the tokens after so many patch blocks
        # A name on the hub (facebook/dinov2-base), a folder or a file; or
        # 'features', those of a teacher that are stored beside the images.
        teacher='',
        sharded=False,  # teacher split as the network is, or whole everywhere
        stop_step=0,  # the weight is 0 from it on; 0 is never
        decay_steps=0,  # before stop_step, in which the weight goes down to 0
      ),
      optimizer=dict(
        name='adamw',  # or came, of less memory
        learning_rate=1e-4,
        schedule='constant',  # after warmup: constant, cosine, linear
        warmup_steps=0,
        final_learning_rate=0.0,  # where cosine and linear end, at `steps`
        drop_step=0,  # a constant rate is the dropped one from it on; 0: never
        dropped_learning_rate=1e-5,
        beta1=0.9,
        beta2=0.999,
        beta3=0.9999,  # of came
        eps=1e-8,  # of adamw
        weight_decay=0.0,  # of kernels only
        clip_norm=1.0,
        accumulate=1,  # parts that a batch is computed in
        max_bad_steps=10,  # not finite in a row, before the run stops
      ),
      ema=dict(
        decay=0.9999,
        warmup=True,  # decay of at most (1 + step) / (10 + step)
      ),
      sampler=dict(
        solver='flow_dpm',  # euler, heun, heun_reuse, flow_dpm, dpm_solver
        steps=100,
        guidance=3.25,
        interval=(0.1, 1.0),  # times that are guided
        shift=1.0,
        start=0.0,  # time of the noise: 0.001 in the text-to-image release
        batch_size=64,  # of all devices together
      ),
      checkpoint=dict(
        every=5_000,
        keep=2,  # newest ones
        keep_period=100_000,  # and every so many steps, for good
        best='',  # and the one with the best of this number of an evaluation
        best_is='lowest',  # or highest
        checksums=True,  # read all files before a resume; else sizes alone
      ),
      log=dict(
        every=100,
        samples_every=10_000,  # a grid in TensorBoard; 0 is never
        samples=16,
        gradient_rise=10.0,  # over the median norm: warns; 0 is never
        trace='',  # steps for the profiler, as '100-110'
      ),
      eval=dict(
        every=0,  # steps between evaluations of the EMA; 0 is never
        samples=5_000,  # of the same seeds and labels each time
        features='inception',  # or digits
        reference='',  # as --reference of launch/evaluate.py
        weights='',  # file of the Inception network
      ),
      mesh=dict(
        # Devices along each axis; -1 takes those left over.
        data=-1,  # replicas
        fsdp=1,  # split batch and weights
        sequence=1,  # split patches
        tensor=1,  # split heads and hidden widths
        slices=1,  # TPU slices joined by DCN alone; the data axis spans them
        rules=dict(sharding.RULES),  # logical axis to mesh axes
      ),
    )
  )


def size_of(name: str) -> dict[str, int]:
  """Widths and depths of a size of the paper, for `config.model.update`.

  Raises:
    UserError: not B, L, XL or T2I.
  """
  if name not in SIZES:
    raise UserError(f'config option size={name!r}: use one of {list(SIZES)}.')
  return SIZES[name]


def preset_of(
  name: str, presets: Mapping[str, Mapping[str, object]]
) -> Mapping[str, object]:
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

  Texts are words of captions of digits, in squares alone.
  """
  config.steps = 4
  text = bool(config.model.text_width)
  config.model.update(
    num_classes=0 if text else 10,
    text_width=16 if text else 0,
    text_tokens=8,
    patch_size=7,
    width=32,
    heads=2,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=1,
    pixel_attention_width=0,
    pixel_heads=0,
  )
  config.data.update(
    source='words:captioned_digits' if text else 'digits',
    resolution=28,
    batch_size=8,
    buckets=False,
    text_encoder='',
  )
  config.repa.weight = 0.0  # a teacher of photographs would have to be fetched
  config.optimizer.update(
    warmup_steps=min(1, config.optimizer.warmup_steps), drop_step=0
  )
  config.sampler.update(steps=2, batch_size=8)
  config.checkpoint.every = 2
  config.log.update(every=1, samples_every=0)


def parse_options(arg: str | None, **defaults) -> ConfigDict:
  """Reads 'size=B,debug' of `--config=file.py:size=B,debug`.

  Args:
    arg: what stands behind the colon; a name alone means True.
    defaults: every option and its value; new values take the same type.

  Raises:
    UserError: an option that is not among the defaults.
  """
  options = ConfigDict(defaults)
  for part in filter(None, (arg or '').split(',')):
    name, _, value = part.partition('=')
    if name not in options:
      raise UserError(
        f'config option {name!r} is not known; there are {sorted(defaults)}.'
      )
    default = defaults[name]
    if isinstance(default, bool):
      if value not in ('', 'True', 'False'):
        raise UserError(f'config option {part!r}: True or False.')
      options[name] = value != 'False'
    else:
      options[name] = type(default)(value)
  return options


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


def model_config(config: ConfigDict) -> ModelConfig:
  """`config.model` as the network takes it.

  Raises:
    UserError: unknown keys, or values that do not go together.
  """
  known = {field.name for field in dataclasses.fields(ModelConfig)}
  unknown = set(config.model) - known
  if unknown:
    raise UserError(
      f'config.model has unknown keys {sorted(unknown)}; there are '
      f'{sorted(known)}.'
    )
  return ModelConfig(**config.model)


def validate(config: ConfigDict) -> None:
  """Checks all that can be known before anything is built.

  Raises:
    UserError: the first key that cannot be, and what would do.
  """
  model = model_config(config)
  model.grid(config.data.resolution, config.data.resolution)
  sharding.make_rules(config.mesh)
  captions.parse_weights(config.data.caption_weights)
  sampler = config.sampler
  solvers.named(sampler.solver)
  grid.time_grid(sampler.steps, sampler.shift, sampler.start)
  guidance.check_interval(sampler.interval)
  if not math.isfinite(sampler.guidance):
    raise UserError(f'sampler.guidance={sampler.guidance}: must be finite.')
  optimizer = config.optimizer
  if optimizer.name not in OPTIMIZERS:
    raise UserError(
      f'optimizer.name={optimizer.name!r}: use one of {OPTIMIZERS}.'
    )
  if optimizer.schedule not in SCHEDULES:
    raise UserError(
      f'optimizer.schedule={optimizer.schedule!r}: use one of {SCHEDULES}.'
    )
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
  if config.checkpoint.best_is not in ('lowest', 'highest'):
    raise UserError(
      f'checkpoint.best_is={config.checkpoint.best_is!r}: lowest or highest.'
    )
  parse_steps(config.log.trace)
  if config.data.batch_size % max(1, optimizer.accumulate):
    raise UserError(
      f'data.batch_size={config.data.batch_size} does not divide into '
      f'optimizer.accumulate={optimizer.accumulate} parts.'
    )
  if config.repa.weight:
    _check_repa(config, model)
  for name, value, low, high in (
    ('steps', config.steps, 1, math.inf),
    ('data.batch_size', config.data.batch_size, 1, math.inf),
    ('sampler.batch_size', sampler.batch_size, 1, math.inf),
    ('optimizer.accumulate', optimizer.accumulate, 1, math.inf),
    ('optimizer.learning_rate', optimizer.learning_rate, 0, math.inf),
    ('optimizer.drop_step', optimizer.drop_step, 0, config.steps),
    (
      'optimizer.dropped_learning_rate',
      optimizer.dropped_learning_rate,
      0,
      math.inf,
    ),
    ('repa.weight', config.repa.weight, 0, math.inf),
    ('repa.stop_step', config.repa.stop_step, 0, math.inf),
    ('repa.decay_steps', config.repa.decay_steps, 0, config.repa.stop_step),
    ('ema.decay', config.ema.decay, 0, 1),
    ('flow.discrete_steps', config.flow.discrete_steps, 0, math.inf),
    ('flow.label_dropout', config.flow.label_dropout, 0, 1),
    ('checkpoint.every', config.checkpoint.every, 1, math.inf),
    ('checkpoint.keep', config.checkpoint.keep, 1, math.inf),
    ('log.every', config.log.every, 1, math.inf),
  ):
    if not low <= value <= high:
      raise UserError(f'{name}={value}: between {low} and {high}.')
  if config.eval.every:
    _check_eval(config)
  if config.checkpoint.best:
    _check_best(config)
  if not config.flow.shift > 0:
    raise UserError(f'flow.shift={config.flow.shift}: must be positive.')


def _check_eval(config: ConfigDict) -> None:
  """Raises UserError where no evaluation can be had."""
  options = config.eval
  if options.every < 0 or options.samples < 2:
    raise UserError(
      f'eval.every={options.every} and eval.samples={options.samples}: a '
      'number of steps, and at least 2 images.'
    )
  if options.features not in FEATURES:
    raise UserError(
      f'eval.features={options.features!r}: use one of {tuple(FEATURES)}.'
    )
  if not options.reference and options.features != 'digits':
    raise UserError(
      'eval.reference is empty: give what --reference of launch/evaluate.py '
      'takes, such as the statistics that its --make_reference wrote.'
    )
  if not config.model.num_classes:
    raise UserError(
      'eval.every: evaluation is of classes, but this network has none; set '
      'eval.every=0.'
    )


def _check_best(config: ConfigDict) -> None:
  """Raises UserError where no evaluation tells which checkpoint is best."""
  best, features = config.checkpoint.best, config.eval.features
  if not config.eval.every:
    raise UserError(
      f'checkpoint.best={best!r} is a number of evaluations: set eval.every.'
    )
  if best not in FEATURES[features]:
    raise UserError(
      f'checkpoint.best={best!r}: evaluations with eval.features={features!r} '
      f'give {", ".join(FEATURES[features])}.'
    )


def _check_repa(config: ConfigDict, model: ModelConfig) -> None:
  """What alignment with a teacher asks of a run."""
  repa = config.repa
  if not repa.teacher:
    raise UserError(
      f'repa.weight={repa.weight} needs a teacher. Two ways to name one: '
      'repa.teacher=facebook/dinov2-base fetches it by name, where there is a '
      'network; repa.teacher=FILE takes model.safetensors of that repository, '
      'or the .pth of the authors. (repa.teacher=features takes features that '
      'launch/prepare_data.py stored; repa.weight=0 trains without.)'
    )
  if not 1 <= repa.block <= model.patch_depth:
    raise UserError(
      f'repa.block={repa.block}: between 1 and model.patch_depth='
      f'{model.patch_depth}.'
    )
  if model.in_channels not in (1, 3):
    raise UserError(
      f'repa.weight={repa.weight} with model.in_channels={model.in_channels}: '
      'teachers see images of 1 or 3 channels.'
    )
  if repa.teacher == STORED and config.data.flip:
    raise UserError(
      'repa.teacher=features with data.flip=True: stored features are of the '
      'images as they lie. Set data.flip=False, or name a teacher.'
    )
