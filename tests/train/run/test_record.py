"""The history of a run: every start and stop, with its reason."""

import importlib.metadata
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import Stopped
from pixeldit_jax.train.run.record import Record, environment, git_state
from pixeldit_jax.train.run.workdir import (
  read_config,
  read_evaluations,
  read_history,
  read_progress,
)


@pytest.fixture
def folder(tmp_path):
  return str(tmp_path)


def test_starts_and_stops_are_told_with_what_changed(folder, caplog):
  caplog.set_level(logging.INFO)
  config = get_config()
  with Record(folder, config) as record:
    record.begin({})
    record.advance(5)
    record.claim()
    record.progress(saved=5)
  config.optimizer.learning_rate = 3e-4
  with pytest.raises(Stopped), Record(folder, config) as record:
    record.resume(5, {})
    record.begin({})
    record.advance(7)
    raise Stopped('stopped at step 7 of 9, saved.')
  with pytest.raises(OSError), Record(folder, config) as record:
    record.resume(5, {})
    record.begin({})
    raise OSError('no room')
  history = read_history(folder)
  assert [line['event'] for line in history] == ['start', 'stop'] * 3
  assert [(line['step'], line['reason']) for line in history[1::2]] == [
    (5, 'done'),
    (7, 'stopped at step 7 of 9, saved.'),
    (5, 'OSError: no room'),
  ]
  for start in history[::2]:
    assert {'command', 'git', 'packages', 'devices'} <= start.keys()
  assert history[2]['changed'] == {'optimizer.learning_rate': [1e-4, 3e-4]}
  assert (
    'optimizer.learning_rate: 0.0001 stored, 0.0003 asked for' in caplog.text
  )
  assert read_config(folder).optimizer.learning_rate == 3e-4


def test_a_kill_leaves_a_start_without_stop_and_loses_time(folder):
  record = Record(folder, get_config())
  record.__enter__()
  record.begin({})
  with record.goodput.phase('step'):
    pass
  seconds = record.goodput.seconds()
  record.advance(30)
  record.progress(saved=20)
  record._resources.close()  # as the system does after a kill
  assert [line['event'] for line in read_history(folder)] == ['start']
  assert read_progress(folder)['saved'] == 20
  with Record(folder, get_config()) as again:
    again.resume(20, seconds)
    assert again.step == 20
    assert again.goodput.seconds()['lost'] > 0


def test_a_run_does_not_start_anew_where_checkpoints_were(folder):
  with Record(folder, get_config()) as record:
    record.start_anew()
    record.progress(saved=None)
  with Record(folder, get_config()) as record:
    record.start_anew()
    record.progress(saved=20)
  with Record(folder, get_config()) as record:
    with pytest.raises(ValueError, match='had a checkpoint of step 20, but'):
      record.start_anew()


def test_a_best_that_no_evaluation_finds_is_told(folder, caplog):
  config = get_config()
  config.checkpoint.best = 'fdi'
  with Record(folder, config) as record:
    record.evaluated(10, {})
    assert not caplog.records
    record.evaluated(20, dict(fid=2.5))
  assert 'checkpoint.best=fdi is not among' in caplog.text


def test_the_metrics_of_evaluations_are_kept(folder):
  with Record(folder, get_config()) as record:
    record.evaluated(10, dict(fid=np.float32(2.5)))
  assert read_evaluations(folder) == {10: dict(fid=2.5)}
  with Record(folder, get_config()) as record:
    assert record.eval_metrics == {10: dict(fid=2.5)}
    record.start_anew()  # no checkpoint of that start was left
    assert record.eval_metrics == {}
  assert read_evaluations(folder) == {}


def test_a_start_that_is_refused_leaves_nothing(tmp_path):
  with pytest.raises(ValueError), Record(str(tmp_path / 'run'), get_config()):
    (tmp_path / 'run/checkpoints').mkdir()
    raise ValueError('refused')
  assert list(tmp_path.iterdir()) == []


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
