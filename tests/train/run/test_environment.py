"""What a run is made with can be told later."""

import importlib.metadata
import shutil
import subprocess
import sys

import pytest

from pixeldit_jax.train.run.environment import environment, git_state


def test_a_start_knows_command_versions_and_devices(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['launch/train.py', '--workdir=a b'])
  known = environment()
  assert known['command'].endswith("launch/train.py '--workdir=a b'")
  assert known['packages']['jax'] == importlib.metadata.version('jax')
  assert known['devices'] == '8 x cpu' and known['processes'] == 1


@pytest.mark.skipif(not shutil.which('git'), reason='git is not installed')
def test_the_state_of_git_tells_what_was_changed(tmp_path):
  assert git_state(tmp_path) is None

  def git(*words):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b']
    subprocess.run(['git', '-C', tmp_path, *who, *words], check=True)

  git('init', '--quiet')
  (tmp_path / 'file').write_text('1\n')
  git('add', 'file')
  git('commit', '--quiet', '--message=first')
  state = git_state(tmp_path)
  assert len(state['commit']) == 40
  assert state['changed'] == [] and state['diff'] == ''
  (tmp_path / 'file').write_text('2\n')
  (tmp_path / 'more').touch()
  state = git_state(tmp_path)
  assert state['changed'] == [' M file', '?? more']
  assert state['diff'].startswith('1 file changed')
