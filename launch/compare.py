"""Compares networks, each trained at one budget on the same data.

  pixeldit compare --preset=rivals --steps=500 --out=runs/rivals
  pixeldit compare --config=mnist:model=deco --config=mnist:model=jit \\
    --flops=1e14 --out=runs/two
  pixeldit compare --config=stamps --config=stamps:pixel_depth=0 \\
    --steps=1000 --out=runs/with_and_without

Each --config is a row: a name or a file. All networks are trained for the same
number of steps, operations or seconds, draw from the same noise and are
measured alike. Networks of texts draw captions of the data, of images that are
not trained on where data.held_out has some; their loss is measured too.
OUT/NAME is the workdir of each, OUT/comparison.md and .html the page.

Stopped and run again, the command goes on. A network that is finished is not
run again, so that another one joins an old comparison: give it alone, with the
same --out and budget; the page has all that are in the folder.
"""

import ast

from absl import flags

from pixeldit_jax.cli import cluster_flags, config_flag, path_flag, run_command
from pixeldit_jax.errors import UserError

_CONFIG = flags.DEFINE_multi_string(
  'config', [], 'A network: mnist:model=deco or a file; repeated.'
)
_PRESET = flags.DEFINE_enum('preset', None, ['rivals'], 'Networks of a list.')
_DATA = path_flag.define(
  'data', '', 'A source or a folder of pictures for all.', kinds=True
)
_SET = flags.DEFINE_multi_string(
  'set', [], 'KEY=VALUE of every configuration, as data.batch_size=16.'
)
_STEPS = flags.DEFINE_integer('steps', None, 'Of each.', lower_bound=1)
_FLOPS = flags.DEFINE_float('flops', None, 'Operations of each, as 1e14.')
_SECONDS = flags.DEFINE_float('seconds', None, 'Of training of each.')
_OUT = path_flag.define('out', None, 'Folder; made if absent.', required=True)
_EVALUATIONS = flags.DEFINE_integer(
  'evaluations', 4, 'During the training of each.', lower_bound=1
)
_NUM_SAMPLES = flags.DEFINE_integer(
  'num_samples', 500, 'Images of an evaluation.', lower_bound=2
)
_NFE = flags.DEFINE_integer(
  'nfe', 50, 'Evaluations of an image where all have as many.', lower_bound=4
)
_FEATURES = flags.DEFINE_enum(
  'features',
  '',
  ['', 'inception', 'efficientnet_lite0', 'digits', 'none'],
  'The feature network; digits for the digits, else none: borders alone.',
)
flags.adopt_module_key_flags(cluster_flags)


def main():
  import jax

  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.compare.comparison import compare
  from pixeldit_jax.compare.plan import PRESETS, Network, prepare

  cluster_flags.initialize()
  start_log(jax.process_index())
  values = dict(map(_value, _SET.value))
  named = [*_CONFIG.value, *PRESETS.get(_PRESET.value or '', ())]
  networks = []
  for argument in named:
    config = config_flag.load(argument)
    prepare(config, _DATA.value, _FEATURES.value, values)
    networks.append(Network(argument, config))
  page = compare(networks, _OUT.value, _protocol())
  if jax.process_index() == 0:
    print(f'The page: {page}')


def _protocol():
  """What all networks get.

  Raises:
    UserError: no budget, or more than one.
  """
  from pixeldit_jax.compare.plan import Protocol

  budgets = (_STEPS, _FLOPS, _SECONDS)
  given = [(flag.name, float(flag.value)) for flag in budgets if flag.value]
  if len(given) != 1:
    raise UserError(
      f'{len(given)} budgets: give one of --steps, --flops or --seconds.'
    )
  return Protocol(
    *given[0],
    _EVALUATIONS.value,
    _NUM_SAMPLES.value,
    _NFE.value,
  )


def _value(text: str):
  """'data.batch_size=16' to its key and value; what is no number is a text."""
  key, equals, value = text.partition('=')
  if not equals:
    raise UserError(f'--set={text}: write KEY=VALUE, as data.batch_size=16.')
  try:
    return key, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return key, value


if __name__ == '__main__':
  run_command.run(main)
