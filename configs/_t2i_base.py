"""What the stages of text-to-image training share, as in the release."""

from ml_collections import ConfigDict

from pixeldit_jax import config as defaults
from pixeldit_jax.model.families import preset


def get_config() -> ConfigDict:
  """The defaults of `pixeldit_jax.config`, changed for text to image at 512."""
  config = defaults.get_config()
  config.model.update(preset('pixeldit', 'T2I'))
  config.model.update(dtype='bfloat16', patch_remat='full', pixel_remat='full')
  config.data.update(
    resolution=512, batch_size=1024, text_encoder='google/gemma-2-2b-it'
  )
  config.flow.update(shift=3.0, discrete_steps=1000, label_dropout=0.1)
  # CAME does not correct its averages: its first steps are large.
  config.optimizer.update(
    name='came', split_gates=True, clip_norm=0.2, warmup_steps=2000
  )
  config.sampler.update(
    solver='dpm_solver',
    steps=50,
    guidance=3.5,
    interval=(0.0, 1.0),
    shift=3.0,
    start=0.001,
  )
  config.mesh.update(data=1, fsdp=-1)
  return config
