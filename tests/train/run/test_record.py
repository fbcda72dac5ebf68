"""The history of a run: every start and stop, with its reason."""

import logging

import numpy as np
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import Stopped
from pixeldit_jax.train.run.record import Record
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
    record.step = 5
  config.optimizer.learning_rate = 3e-4
  with pytest.raises(Stopped), Record(folder, config) as record:
    record.step = 7
    raise Stopped('stopped at step 7 of 9, saved.')
  with pytest.raises(OSError), Record(folder, config):
    raise OSError('no room')
  history = read_history(folder)
  assert [line['event'] for line in history] == ['start', 'stop'] * 3
  assert [(line['step'], line['reason']) for line in history[1::2]] == [
    (5, 'done'),
    (7, 'stopped at step 7 of 9, saved.'),
    (0, 'OSError: no room'),
  ]
  for start in history[::2]:
    assert {'command', 'git', 'packages', 'devices'} <= start.keys()
  assert history[2]['changed'] == {'optimizer.learning_rate': [1e-4, 3e-4]}
  assert 'optimizer.learning_rate: 0.0001 there, 0.0003 here' in caplog.text
  assert read_config(folder).optimizer.learning_rate == 3e-4


def test_a_kill_leaves_a_start_without_stop_and_loses_time(folder):
  record = Record(folder, get_config())
  record.__enter__()
  with record.goodput.spending('step'):
    pass
  account = record.account()
  record.watch.see(1, float('nan'))
  record.step = 30
  record.progress(saved=20)
  record._resources.close()  # as the system does after a kill
  assert [line['event'] for line in read_history(folder)] == ['start']
  assert read_progress(folder)['saved'] == 20
  with Record(folder, get_config()) as again:
    again.resume(20, account)
    assert again.step == 20 and again.watch.skipped == 0
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
    record.evaluated(10, dict(samples=np.zeros((2, 2, 3), np.uint8)))
    assert not caplog.records
    record.evaluated(20, dict(fid=2.5))
  assert 'checkpoint.best=fdi is not among' in caplog.text


def test_numbers_of_evaluations_are_kept_without_pictures(folder):
  found = dict(fid=np.float32(2.5), samples=np.zeros((2, 2, 3), np.uint8))
  with Record(folder, get_config()) as record:
    record.evaluated(10, found)
  assert read_evaluations(folder) == {10: dict(fid=2.5)}
  with Record(folder, get_config()) as record:
    assert record.numbers == {10: dict(fid=2.5)}
