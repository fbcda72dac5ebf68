"""How the other networks of the family are trained and sampled on ImageNet.

The values are those of their papers and public configurations. All are AdamW
without clipping (PixelFlow clips) or decay, and an EMA of 0.9999 from the first
step on.
"""

from typing import Any

from ml_collections import ConfigDict

from pixeldit_jax.config.defaults import get_config
from pixeldit_jax.config.keys import RANDOM
from pixeldit_jax.errors import UserError
from pixeldit_jax.model import families
from pixeldit_jax.model.families import FAMILIES, preset

DINOV2 = 'facebook/dinov2-base'
DINOV3 = {
  384: 'facebook/dinov3-vits16-pretrain-lvd1689m',
  768: 'facebook/dinov3-vitb16-pretrain-lvd1689m',
}
LARGEST = dict(
  deco='XL',
  pixnerd='XL',
  flatdit='XL',
  jit='H',
  pixeldit2='H',
  pmf='H',
  dit='XL',
  pixelflow='XL',
)
AUTOENCODER = 'stabilityai/sd-vae-ft-ema'
EPOCH = 1_251  # steps of 1024 images
# Of networks of images: noisy times, mirrored images, a rate that warms up.
IMAGES: dict[str, Any] = {
  'flow.time_mean': -0.8,
  'flow.time_std': 0.8,
  'data.flip': True,
  'data.batch_size': 1024,
  'optimizer.learning_rate': 2e-4,
  'optimizer.beta2': 0.95,
  'optimizer.warmup_steps': 5 * EPOCH,
}
ALIGNED: dict[str, Any] = {
  'repa.weight': 0.5,
  'repa.block': 8,
  'repa.teacher': DINOV2,
  'repa.position_offset': 0.1,
}
# Of average velocities: Muon, no warmup; half of the EMA is 2M images old.
AVERAGE: dict[str, Any] = {
  'objective': 'mean_flow',
  'flow.time_std': 0.8,
  'data.batch_size': 1024,
  'optimizer.name': 'muon',
  'optimizer.learning_rate': 1e-3,
  'optimizer.beta2': 0.95,
  'ema.decay': 0.99965,
}
# What is the same at every size and resolution.
SHARED: dict[str, dict[str, Any]] = {
  'deco': ALIGNED | {'flow.frequency_weight': 1.0},
  'pixnerd': ALIGNED,
  'flatdit': ALIGNED,
  'jit': IMAGES,
  'pixeldit2': IMAGES | ALIGNED,
  'pmf': AVERAGE,
  'dit': {'data.flip': True},
  'pixelflow': {'data.flip': True, 'optimizer.clip_norm': 1.0},
}
SAMPLERS: dict[str, dict[str, Any]] = {
  'deco': dict(solver='euler', steps=100, interval_bounds='upper'),
  'pixnerd': dict(solver='euler', steps=100),
  'flatdit': dict(solver='euler', steps=50),
  'jit': dict(solver='heun', steps=50, interval_bounds='zero'),
  'pixeldit2': dict(solver='heun', steps=50, interval_bounds='zero'),
  'pmf': dict(solver='jump', steps=1),
  'dit': dict(solver='ddpm', steps=250),
  'pixelflow': dict(solver='euler', steps=30),
}
# Of XL, and of JiT-H and PixelDiT2-H. DeCo and PixNerd reach 512 by going on
# from a run at 256 (init_from) for so many steps.
STEPS = {
  ('deco', 256): 4_000_000,
  ('deco', 512): 100_000,
  ('pixnerd', 256): 1_600_000,
  ('pixnerd', 512): 200_000,
  ('flatdit', 256): 200_000,
  ('jit', 256): 600 * EPOCH,
  ('jit', 512): 600 * EPOCH,
  ('pixeldit2', 256): 750_000,
  ('pixeldit2', 512): 850_000,
  ('pmf', 256): 360 * EPOCH,
  ('pmf', 512): 360 * EPOCH,
  ('dit', 256): 7_000_000,
  ('dit', 512): 3_000_000,
  ('pixelflow', 256): 320 * 5_000,  # not in its code: as long as PixelDiT
}
GUIDANCE = {
  ('deco', 256): 3.2,
  ('deco', 512): 5.0,
  ('pixnerd', 256): 3.5,
  ('pixnerd', 512): 3.5,
  ('flatdit', 256): 1.0,
  ('jit', 256): 2.2,
  ('jit', 512): 2.3,
  ('pixeldit2', 256): 2.4,
  ('pixeldit2', 512): 2.1,
  ('pmf', 256): 7.0,
  ('pmf', 512): 5.5,
  ('dit', 256): 1.5,
  ('dit', 512): 1.5,
  ('pixelflow', 256): 2.4,
}
INTERVAL = {
  ('pixeldit2', 256): (0.125, 0.9),
  ('pixeldit2', 512): (0.1, 0.925),
  ('pmf', 256): (0.4, 0.8),
  ('pmf', 512): (0.4, 0.9),
}
# Where a size differs from the largest.
SIZES: dict[tuple[str, str, int], dict[str, Any]] = {
  ('deco', 'L', 256): {'steps': 200_000, 'sampler.steps': 50},
  ('pixnerd', 'L', 256): {'steps': 200_000},
  ('jit', 'B', 256): {'sampler.guidance': 3.0},
  ('jit', 'L', 256): {'sampler.guidance': 2.4},
  ('jit', 'B', 512): {'sampler.guidance': 3.0},
  ('jit', 'L', 512): {'sampler.guidance': 2.5},
  ('pixeldit2', 'B', 256): {'repa.block': 4},
  ('pmf', 'B', 256): {
    'steps': 320 * EPOCH,
    'flow.time_mean': -0.8,
    'sampler.guidance': 8.5,
    'sampler.interval': (0.3, 0.9),
  },
  ('pmf', 'B', 512): {
    'steps': 320 * EPOCH,
    'flow.time_mean': -0.8,
    'flow.noise_scale': 2.0,
    'sampler.guidance': 6.5,
    'sampler.interval': (0.3, 0.9),
  },
  ('pmf', 'L', 256): {
    'steps': 320 * EPOCH,
    'flow.time_mean': -0.8,
    'mean_flow.beta': 2.0,
    'sampler.interval': (0.3, 0.8),
  },
  ('pmf', 'L', 512): {
    'steps': 320 * EPOCH,
    'flow.noise_scale': 4.0,
    'sampler.guidance': 7.5,
    'sampler.interval': (0.4, 0.8),
  },
  ('pmf', 'H', 256): {'flow.noise_scale': 2.0, 'mean_flow.uniform': 0.1},
  ('pmf', 'H', 512): {'flow.noise_scale': 4.0, 'mean_flow.uniform': 0.1},
}


def imagenet(model: str, size: str, length: str, resolution: int) -> ConfigDict:
  """The configuration of a network of `LARGEST`, as published.

  Args:
    model: the family.
    size: '' is the largest.
    length: the option `preset`, which these networks do not have.
    resolution: 256 or 512.

  Raises:
    UserError: a family, size or resolution that was not published.
  """
  if model not in LARGEST:
    raise UserError(
      f'config option model={model!r}: there are recipes for '
      f'{["pixeldit", *LARGEST]}, networks {list(FAMILIES)}.'
    )
  if length:
    raise UserError(
      f'config option preset={length!r} is of model=pixeldit; model={model} '
      'has one length: set config.steps.'
    )
  if (model, resolution) not in STEPS:
    raise UserError(
      f'config option model={model!r}: nothing is published at {resolution}; '
      'use imagenet256.'
    )
  size = size or LARGEST[model]
  config = get_config()
  config.steps = STEPS[model, resolution]
  config.model.update(_network(model, size, resolution))
  config.model.update(
    dtype='bfloat16', patch_remat='matmuls', pixel_remat='full'
  )
  config.data.update(source='tfds:imagenet2012:train', resolution=resolution)
  if model == 'dit':
    config.data.update(source='shards:', resolution=resolution // 8)
  config.optimizer.clip_norm = float('inf')
  config.ema.update(decay=0.9999, warmup=False)
  config.flow.label_dropout = 0.2 if (model, size) == ('deco', 'XL') else 0.1
  config.update_from_flattened_dict(SHARED[model])
  sample_as_published(config, model)
  if (model, resolution) == ('pixeldit2', 512):
    config.grounding.joint_dropout = 0.05
  config.mesh.update(data=1, fsdp=-1)
  config.update_from_flattened_dict(SIZES.get((model, size, resolution), {}))
  return config


def sample_as_published(config: ConfigDict, model: str) -> None:
  """Sets what decides the images that given weights make.

  Solver, guidance, scale of the noise and the encoder, at the resolution of
  `config.data`; that of 256 where the paper has no other.

  Args:
    config: with the network.
    model: its family; of one without a recipe, nothing is set.
  """
  if model not in LARGEST:
    return
  resolution = 512 if config.data.resolution >= 512 else 256
  if (model, resolution) not in GUIDANCE:
    resolution = 256
  config.sampler.update(
    SAMPLERS[model],
    guidance=GUIDANCE[model, resolution],
    interval=INTERVAL.get((model, resolution), (0.1, 1.0)),
  )
  if model == 'dit' and config.model.in_channels == 4:
    config.latents.autoencoder = AUTOENCODER
  if config.model.prediction == 'image':
    config.flow.noise_scale = 2.0 if resolution == 512 else 1.0
  if config.model.mean_flow == 'tokens':
    config.objective = 'mean_flow'
    config.flow.noise_scale = 1.0  # or that of the size
  for size, fields in families.SIZES[model].items():
    if all(config.model[k] == fields[k] for k in ('width', 'patch_depth')):
      changes = SIZES.get((model, size, resolution), {})
      config.update_from_flattened_dict(
        {
          k: v
          for k, v in changes.items()
          if k.startswith('sampler.') or k == 'flow.noise_scale'
        }
      )
  config.grounding.encoder = DINOV3.get(config.model.grounding_width, '')


def _network(model: str, size: str, resolution: int) -> dict[str, Any]:
  """The fields of a published network at a resolution."""
  if resolution == 512 and (model, size) == ('pixeldit2', 'H'):
    size = 'H512'
  fields = preset(model, size)
  if resolution == 512 and model in ('jit', 'pmf'):
    fields['patch_size'] = 32  # as many patches as at 256
  if resolution == 512 and model == 'dit':
    fields['position_grid'] = 32
  return fields


def digits(config: ConfigDict, model: str) -> None:
  """Makes a run of PixelDiT on the digits one of another network.

  Its objective, times and rules of sampling are those of its paper; rate,
  average, steps and guidance stay those of a run of minutes. Digits are not
  mirrored, and the encoder that grounds has learnt nothing.
  """
  if model not in LARGEST:
    raise UserError(
      f'config option model={model!r}: use one of {["pixeldit", *LARGEST]}.'
    )
  width, depth = config.model.pixel_width, config.model.pixel_depth
  fields = preset(model)
  # The noise of 7 x 7 pixels, 147 numbers, does not go through a width of 128.
  patch = 4 if model == 'dit' else config.model.patch_size
  fields |= dict(in_channels=3, patch_size=patch)
  config.model.update(fields)
  config.flow.stages = 2  # of PixelFlow: 14 and 28 pixels
  if config.model.decoder == 'linear':
    depth = 0
  config.model.update(
    pixel_width=width,
    pixel_depth=depth,
    bottleneck=min(32, config.model.bottleneck),
    context_tokens=min(4, config.model.context_tokens),
    context_start=min(1, config.model.context_start),
    position_grid=28 // patch if config.model.position_grid else 0,
    branch_depth=min(2, config.model.branch_depth),
    grounding_width=min(64, config.model.grounding_width),
  )
  flow = {
    k: v
    for k, v in SHARED[model].items()
    if k.startswith(('flow.', 'objective'))
  }
  if config.model.prediction != 'velocity':
    flow['flow.shift'] = 1.0  # its times are noisy as they are
  config.update_from_flattened_dict(flow)
  if config.model.grounding_width:
    config.grounding.encoder = RANDOM
  rules = dict(SAMPLERS[model])
  del rules['steps']
  config.sampler.update(rules)
