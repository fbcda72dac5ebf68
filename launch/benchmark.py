"""Measures how fast this machine trains, samples, reads and saves.

  pixeldit benchmark --config=imagenet256:size=B --what=train

--what=train     complete training steps on random images
--what=sample    complete sampling loops from random weights
--what=data      only decoding, and the complete input pipeline
--what=features  the FID Inception network, from uint8 images to features
--what=checkpoint  the state saved while steps go on, in --folder

--against=FOLDER, a checkout of the public PyTorch code of the same network,
times its training or sampling in turn with ours and prints the ratios:

  pixeldit benchmark --config=imagenet256:model=dit,size=B --against=DiT

Prints a line for each figure; --json=FILE writes them too.
"""

from absl import flags

from pixeldit_jax.cli import config_flag, path_flag, run_command

_CONFIG = config_flag.define(
  'A name (imagenet256:size=XL), a file or a run; --config.key=value changes '
  'one value.'
)
_WHAT = flags.DEFINE_enum(
  'what',
  'train',
  ['train', 'sample', 'data', 'features', 'checkpoint'],
  'What to measure.',
)
_COUNT = flags.DEFINE_integer(
  'count', 10, 'Steps or sampling loops that are timed.', lower_bound=1
)
_PROFILE = path_flag.define('profile', None, 'Folder for a trace.')
_FOLDER = path_flag.define(
  'folder', None, 'Where a checkpoint is written, and removed afterwards.'
)
_AGAINST = path_flag.define(
  'against',
  None,
  'Checkout of public code that trains or samples in turn with ours.',
)
_JSON = path_flag.define('json', None, 'File for the figures.')


def main():
  from pixeldit_jax import files, outputs
  from pixeldit_jax.benchmarks import (
    against,
    checkpoint_time,
    input_throughput,
    step_time,
  )
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
  from pixeldit_jax.data.sources.open_source import open_source
  from pixeldit_jax.run_context import RunContext

  outputs.check(filter(None, [_JSON.value]))
  start_log(level='WARNING')  # only the figures
  config = _CONFIG.value
  report: dict[str, float] | dict[str, float | str]
  if _AGAINST.value:
    report = against.measure_against(
      config, _AGAINST.value, _WHAT.value, _COUNT.value
    )
  elif _WHAT.value == 'train':
    report = step_time.measure_training(config, _COUNT.value, _PROFILE.value)
  elif _WHAT.value == 'sample':
    report = step_time.measure_sampling(config, _COUNT.value, _PROFILE.value)
  elif _WHAT.value == 'features':
    report = step_time.measure_features(config.data.resolution, _COUNT.value)
  elif _WHAT.value == 'checkpoint':
    report = checkpoint_time.measure_checkpoint(
      RunContext.build(config), _COUNT.value, _FOLDER.value
    )
  else:
    report = input_throughput.measure(
      open_source(config.data.source), LoaderOptions.from_config(config)
    )
  for name, value in report.items():
    text = value if isinstance(value, str) else f'{value:.4g}'
    print(f'{name:30} {text}')
  if _JSON.value:
    with outputs.replacing(_JSON.value) as made:
      files.write_json(made, report)


if __name__ == '__main__':
  run_command.run(main)
