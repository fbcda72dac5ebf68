"""launch/train.py with a fault: python pod_process.py MOMENT FLAGS.

At the moment, a function below, the process kills itself.
"""

import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from pixeldit_jax.launch import train  # noqa: E402

from pixeldit_jax.cli import run_command  # noqa: E402
from pixeldit_jax.eval import sample_grid_evaluator  # noqa: E402
from pixeldit_jax.train import program  # noqa: E402
from pixeldit_jax.train.checkpoint import manager  # noqa: E402
from pixeldit_jax.train.checkpoint.folders import (  # noqa: E402
  folder_of,
  steps_in,
)
from pixeldit_jax.train.run import peers  # noqa: E402

MOMENTS = {
  'join': (peers, '_read_line'),  # process 0 knows it, and waits for others
  'compile': (program.CompiledStep, '__init__'),
  'step': (program.CompiledStep, '__call__'),
  'save': (manager.Checkpoints, 'save'),
  'evaluation': (sample_grid_evaluator.SampleGridEvaluator, '__call__'),
}


def main():
  moment = sys.argv.pop(1)
  if moment in MOMENTS:
    owner, name = MOMENTS[moment]
    setattr(owner, name, die_once_saved if moment == 'evaluation' else die)
  run_command.run(train.main)


def die(*args, **options):
  os.kill(os.getpid(), signal.SIGKILL)


def die_once_saved(*args, **options):
  """The checkpoint before it is still being written: by all processes."""
  (workdir,) = (a.split('=')[1] for a in sys.argv if a.startswith('--workdir='))
  while not steps_in(folder_of(workdir)):
    time.sleep(0.05)
  die()


if __name__ == '__main__':
  main()
