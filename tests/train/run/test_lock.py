"""Two trainers on one workdir: the second refuses, until the first is gone."""

import errno
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from etils import epath

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run import lock

ROOT = pathlib.Path(__file__).parents[3]
HOLD = (
  'import sys; from pixeldit_jax.train.run import lock\n'
  'with lock.hold(sys.argv[1]):\n'
  '  print("held", flush=True); sys.stdin.read()'
)


@pytest.fixture
def holder(tmp_path):
  """Another process that holds tmp_path."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, tmp_path],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert process.stdout.readline() == b'held\n'
  yield process
  process.kill()
  process.communicate()


def test_a_second_trainer_refuses_until_the_first_is_killed(tmp_path, holder):
  pytest.importorskip('mlxtend')
  config = get_config()
  make_debug(config)
  with pytest.raises(ValueError) as error:
    train(RunContext.build(config), str(tmp_path))
  assert 'is in use by the trainer with process id' in str(error.value)
  assert f'{holder.pid} on {socket.gethostname()}' in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['lock']
  holder.kill()
  holder.wait()
  with lock.hold(str(tmp_path)):
    pass
  assert json.loads((tmp_path / 'lock').read_text())['beat'] == 0


def test_a_holder_notices_that_the_lock_is_no_longer_its_own(tmp_path):
  with lock.hold(str(tmp_path)) as first:
    assert not first.lost()
    (tmp_path / 'lock').unlink()
    assert 'no longer ours, but held by nobody' in first.lost()
    with lock.hold(str(tmp_path)) as second:
      first.beat(7)  # writes nothing over the second's
      assert not second.lost()
      assert f'process id {os.getpid()}' in first.lost()


def test_a_folder_that_holds_nothing_but_the_lock_goes_with_it(tmp_path):
  with lock.hold(str(tmp_path / 'run')):
    assert (tmp_path / 'run/lock').exists()
  assert not (tmp_path / 'run').exists()


def test_without_locks_of_the_system_a_second_one_is_refused(
  tmp_path, monkeypatch
):
  def none(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', none)
  with lock.hold(str(tmp_path), beat=0.05) as first:
    with pytest.raises(UserError, match='is in use by the trainer'):
      with lock.hold(str(tmp_path), beat=0.2):
        pass
    assert not first.lost()
    (tmp_path / 'lock').write_text(json.dumps(dict(host='far', token='x')))
    assert 'held by the trainer' in first.lost()
  assert not (tmp_path / 'lock.held').exists()


def test_another_host_that_beats_is_heard(tmp_path):
  """Where locks of the system do not reach."""
  path = tmp_path / 'lock'
  over = threading.Event()

  def elsewhere():
    for beat in range(1, 10_000):
      beside = tmp_path / 'beside'
      beside.write_text(json.dumps(dict(host='far', pid=3, beat=beat)))
      os.replace(beside, path)
      if over.wait(0.01):
        break

  thread = threading.Thread(target=elsewhere)
  thread.start()
  try:
    while not path.exists():
      pass
    with pytest.raises(ValueError, match='process id 3 on far'):
      with lock.hold(str(tmp_path), beat=0.1):
        pass
  finally:
    over.set()
    thread.join()
  # It beats no more: it is gone.
  with lock.hold(str(tmp_path), beat=0.01):
    pass
  assert json.loads(path.read_text())['host'] == socket.gethostname()


@pytest.fixture(scope='module', params=['gs', 's3'])
def bucket(request, cloud):
  return cloud(request.param, 'locks')


def test_of_many_that_start_at_once_in_a_bucket_one_gets_the_lock(bucket):
  for attempt in range(20):
    got = hold_at_once(f'{bucket}/{attempt}', 4)
    assert got.count('held') == 1 and got.count('refused') == 3


def hold_at_once(workdir, count):
  """What each of several trainers meets that start together."""
  start, end = threading.Barrier(count), threading.Barrier(count)
  got = []

  def go():
    start.wait()
    try:
      with lock.hold(workdir, beat=0.02):
        got.append('held')
        end.wait()
    except UserError:
      got.append('refused')
      end.wait()

  threads = [threading.Thread(target=go) for _ in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return got


def test_in_a_bucket_a_dead_trainer_is_followed_and_a_live_one_is_not(bucket):
  with lock.hold(f'{bucket}/w', beat=0.02) as first:
    with pytest.raises(UserError, match='is in use by the trainer with proc'):
      with lock.hold(f'{bucket}/w', beat=0.1):
        pass
    assert not first.lost()
  there = epath.Path(f'{bucket}/w/lock')
  assert json.loads(there.read_text())['beat'] == 0
  there.write_text(json.dumps(dict(host='far', pid=7, beat=3)))
  with lock.hold(f'{bucket}/w', beat=0.02) as second:
    there.write_text(json.dumps(dict(host='far', pid=7, beat=4)))
    assert 'held by the trainer with process id 7 on far' in second.lost()
  assert json.loads(there.read_text())['beat'] == 4


def test_a_lock_whose_answer_was_lost_is_still_ours(bucket, monkeypatch):
  buckets.check(bucket)
  there = buckets.Object(f'{bucket}/answer')
  assert there.replace('one')
  client = buckets.CLIENTS[bucket[:2]]
  send = client.put

  def send_twice(*arguments):
    send(*arguments)  # the server has it, and the client sends it again
    return send(*arguments)

  monkeypatch.setattr(client, 'put', send_twice)
  assert there.replace('two') and there.replace('three')
  epath.Path(f'{bucket}/answer').write_text('of another')
  assert not there.replace('four')
