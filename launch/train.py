"""Trains a network, or goes on with a run.

  pixeldit train --config=mnist --workdir=runs/mnist

Run again with the same workdir, it goes on from the newest checkpoint. SIGTERM,
or Ctrl-C once, saves and ends with exit code 75; Ctrl-C twice ends at once. A
file named `trace` in the workdir of a running job asks for a profiler trace.
"""

from absl import flags

from pixeldit_jax.cli import cluster_flags, config_flag, path_flag, run_command

_CONFIG = config_flag.define(
  'What to train: a name (imagenet256:size=XL), a file or an earlier run; '
  '--config.key=value changes one value.'
)
_WORKDIR = path_flag.define_workdir(
  'Folder of checkpoints and logs; made if absent.'
)
_ALLOW_CHANGE = flags.DEFINE_list(
  'allow_change',
  [],
  'Keys that may differ from those the run was started with though they change '
  'what it is, as in data.source,data.batch_size.',
)
_CHECK = flags.DEFINE_bool(
  'check', False, 'Only check the configuration, as before a slice is made.'
)
flags.adopt_module_key_flags(cluster_flags)


def main():
  # Imported here: --help has no need of them.
  import jax

  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.config import validate
  from pixeldit_jax.eval import feature_networks
  from pixeldit_jax.eval.held_out_evaluator import HeldOutEvaluator
  from pixeldit_jax.eval.sample_grid_evaluator import SampleGridEvaluator
  from pixeldit_jax.run_context import RunContext
  from pixeldit_jax.storage import buckets
  from pixeldit_jax.train.evaluator import Evaluator
  from pixeldit_jax.train.inputs import open_data
  from pixeldit_jax.train.loop import train
  from pixeldit_jax.train.repa import load_teacher

  if _CHECK.value:
    validate(_CONFIG.value)
    return
  cluster_flags.initialize()
  start_log(jax.process_index())
  config = _CONFIG.value
  for path in (_WORKDIR.value, config.init_from):
    buckets.check(path)  # before any data are read
  if config.fit_minutes:
    config_flag.fit(config, _WORKDIR.value)
  context = RunContext.build(config)
  teacher = load_teacher(config)
  source = open_data(config)
  evaluators: list[Evaluator] = []
  if config.log.samples_every:
    evaluators.append(SampleGridEvaluator(context, _WORKDIR.value, source))
  if config.eval.every:
    evaluators.append(feature_networks.make_evaluator(context))
  if config.data.held_out:
    evaluators.append(HeldOutEvaluator(context))
  train(
    context,
    _WORKDIR.value,
    evaluators,
    teacher,
    _ALLOW_CHANGE.value,
    source=source,
  )
  if jax.process_index() == 0:
    print(_next(_WORKDIR.value, config))


def _next(workdir, config):
  """What a user may do with a run that is trained."""
  wanted = "--prompts='a red fox' " if config.model.text_width else ''
  drawn = f'The last samples: {workdir}/samples.png\n'
  return (
    f'{drawn if config.log.samples_every else ""}Trained. Next:\n'
    f'  pixeldit sample --workdir={workdir} {wanted}--out={workdir}/samples\n'
    f'  tensorboard --logdir {workdir}   (loss and samples over time)\n'
    f'  the same command with a larger --config.steps goes on'
  )


if __name__ == '__main__':
  run_command.run(main)
