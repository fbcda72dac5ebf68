"""ImageNet at 512x512: the papers' class-conditional runs.

Options: model=pixeldit|pixeldit2|deco|pixnerd|jit, by default the first; size,
by default the largest that is published (of PixelDiT B, L, XL); preset=ep850,
how long PixelDiT trains and how it is sampled; debug (a few steps of a tiny
network on the digits, without REPA). DeCo and PixNerd go on from a run at 256:
--config.init_from=WORKDIR.

REPA needs the weights of DINOv2-B: they are fetched by name, or
--config.repa.teacher=FILE.
"""

from typing import Any

from pixeldit_jax import config as defaults
from pixeldit_jax.config import family_recipes
from pixeldit_jax.model import families

STEPS_OF_EPOCH = 5_000  # of 256 images

PRESETS: dict[str, dict[str, Any]] = {
  'ep850': dict(epochs=850, guidance=3.5, interval=(0.1, 1.0), shift=2.0),
}


def get_config(arg: str | None = None):
  """`--config=configs/imagenet512.py:preset=ep850`."""
  options = defaults.parse_options(
    arg, model='pixeldit', size='', preset='', debug=False
  )
  if options.model == 'pixeldit':
    config = _pixeldit(options.size or 'XL', options.preset or 'ep850')
  else:
    arguments = options.model, options.size, options.preset
    config = family_recipes.imagenet(*arguments, resolution=512)
  if options.debug:
    defaults.make_debug(config)
  return config


def _pixeldit(size: str, name: str):
  preset = dict(defaults.preset_of(name, PRESETS))
  config = defaults.get_config()
  config.steps = preset.pop('epochs') * STEPS_OF_EPOCH
  config.model.update(families.preset('pixeldit', size))
  config.model.update(
    dtype='bfloat16', patch_remat='matmuls', pixel_remat='full'
  )
  config.data.update(source='tfds:imagenet2012:train', resolution=512)
  config.flow.shift = 3.0
  config.repa.update(weight=0.5, block=8, teacher='facebook/dinov2-base')
  # The paper says that the rate drops late, not when: the last tenth, here.
  config.optimizer.update(
    learning_rate=1e-4,
    clip_norm=0.5,
    drop_step=config.steps * 9 // 10,
    dropped_learning_rate=1e-5,
  )
  config.ema.decay = 0.9999
  config.sampler.update(solver='flow_dpm', steps=100, **preset)
  config.mesh.update(data=1, fsdp=-1)
  return config
