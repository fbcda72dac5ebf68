"""`pixeldit`: its commands, their help, and a misspelt one."""

import pathlib
import subprocess
import sys

import pytest

from pixeldit_jax.cli import commands

COMMANDS = {
  'ablate',
  'benchmark',
  'checkpoints',
  'compare',
  'compile',
  'convert',
  'edit',
  'encode-text',
  'evaluate',
  'prepare-data',
  'report',
  'sample',
  'show-data',
  'studio',
  'train',
}
# As the console script that an installation writes.
SCRIPT = 'from pixeldit_jax.cli.commands import main; main()'
# Then says which heavy packages were imported on the way.
SHOW_HEAVY = """
import atexit, sys
heavy = ('jax', 'flax', 'numpy', 'orbax', 'torch')
atexit.register(lambda: print('heavy:', [n for n in heavy if n in sys.modules]))
"""


def pixeldit(*arguments, before='', cwd=None):
  return subprocess.run(
    [sys.executable, '-c', before + SCRIPT, *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
  )


def test_help_lists_every_command_without_loading_jax():
  done = pixeldit('--help', before=SHOW_HEAVY)
  assert done.returncode == 0 and not done.stderr
  *lines, heavy = done.stdout.splitlines()
  listed = {line.split()[0]: line for line in lines if line[:2] == '  '}
  assert set(listed) >= COMMANDS
  assert all(len(line) <= 88 and line.endswith('.') for line in listed.values())
  assert heavy == 'heavy: []'


@pytest.mark.parametrize('command', sorted(COMMANDS))
def test_help_of_a_command_loads_no_jax(command):
  done = pixeldit(command, '--help', before=SHOW_HEAVY)
  assert done.returncode == 0, done.stderr
  assert f'Flags of {command} ' in done.stdout and '\n  --' in done.stdout
  assert "'jax'" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
  'given, answer',
  [
    ('trian', "pixeldit: no command 'trian'; did you mean 'train'?"),
    ('show', "pixeldit: no command 'show'; did you mean 'show-data'?"),
    ('x', "pixeldit: no command 'x'; there are ablate, "),
  ],
)
def test_a_misspelt_command_is_one_line(given, answer, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['pixeldit', given])
  with pytest.raises(SystemExit) as end:
    commands.main()
  assert end.value.code.startswith(answer) and '\n' not in end.value.code


def test_every_command_has_a_main_and_one_line_about_it():
  for name, path in commands.command_files().items():
    assert 'def main():' in path.read_text(), name
  assert set(commands.command_files()) >= COMMANDS


def test_no_file_of_launch_hides_a_package(tmp_path):
  """`python launch/train.py` must not find launch/evaluate.py as evaluate."""
  launch = pathlib.Path(commands.command_files()['train'])
  (tmp_path / 'config.py').write_text(
    'import importlib.util, sys\n'
    'def get_config():\n'
    "  sys.exit(str(importlib.util.find_spec('evaluate')))\n"
  )
  done = subprocess.run(
    [
      sys.executable,
      str(launch),
      f'--config={tmp_path}/config.py',
      f'--workdir={tmp_path}/run',
    ],
    capture_output=True,
    text=True,
  )
  assert 'launch' not in done.stderr and done.returncode == 1
