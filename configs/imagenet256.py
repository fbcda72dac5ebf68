"""ImageNet at 256x256: the papers' class-conditional runs.

Options: model=pixeldit|pixeldit2|deco|pixnerd|flatdit|jit|pmf|dit|pixelflow, by
default the first; size, by default the largest that is published (of PixelDiT
B, L, XL); preset=ep80|ep160|ep320, how long PixelDiT trains and how it is
sampled; debug (a few steps of a tiny network on the digits, without REPA).

REPA needs the weights of DINOv2-B: they are fetched by name, or
--config.repa.teacher=FILE.
"""

from typing import Any

from pixeldit_jax import config as defaults
from pixeldit_jax.config import family_recipes
from pixeldit_jax.model import families

STEPS_OF_EPOCH = 5_000  # of 256 images

PRESETS: dict[str, dict[str, Any]] = {
  'ep80': dict(epochs=80, guidance=3.25, interval=(0.1, 1.0)),
  'ep160': dict(epochs=160, guidance=3.25, interval=(0.1, 1.0)),
  'ep320': dict(epochs=320, guidance=2.75, interval=(0.1, 0.9)),
}


def get_config(arg: str | None = None):
  """`--config=configs/imagenet256.py:size=L,preset=ep160`."""
  options = defaults.parse_options(
    arg, model='pixeldit', size='', preset='', debug=False
  )
  if options.model == 'pixeldit':
    config = _pixeldit(options.size or 'XL', options.preset or 'ep80')
  else:
    arguments = options.model, options.size, options.preset
    config = family_recipes.imagenet(*arguments, resolution=256)
  if options.debug:
    defaults.make_debug(config)
  return config


def _pixeldit(size: str, name: str):
  preset = dict(defaults.preset_of(name, PRESETS))
  epochs = preset.pop('epochs')
  config = defaults.get_config()
  config.steps = epochs * STEPS_OF_EPOCH
  config.model.update(families.preset('pixeldit', size))
  config.model.update(
    dtype='bfloat16', patch_remat='matmuls', pixel_remat='full'
  )
  config.data.update(source='tfds:imagenet2012:train', resolution=256)
  config.flow.shift = 1.0
  config.repa.update(weight=0.5, block=8, teacher='facebook/dinov2-base')
  config.optimizer.update(learning_rate=1e-4, clip_norm=1.0)
  if epochs == 320:
    # The paper says that the rate drops late, not when: the last tenth, here.
    config.optimizer.update(
      drop_step=config.steps * 9 // 10, dropped_learning_rate=1e-5
    )
  config.ema.decay = 0.9999
  config.sampler.update(solver='flow_dpm', steps=100, shift=1.0, **preset)
  config.mesh.update(data=1, fsdp=-1)
  return config
