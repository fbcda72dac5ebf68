"""Processes that watch each other: one is lost, the others end in words."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from pixeldit_jax.errors import EXIT_LOST, UserError
from pixeldit_jax.train.run import peers

# A process of three that say when they know each other, and then work.
PROCESS = """
import os, sys, time
from pixeldit_jax.cli import run_command
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run import peers
peers.BEAT, peers._GRACE = 0.2, 0.5
port, index, work, before = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
exec(before)

def main():
  peers.join('127.0.0.1', port, 3, index, 60)
  print('joined', flush=True)
  exec(work)

sys.argv[1:] = []
run_command.run(main)
"""
WORK = 'time.sleep(60)'


def free_port():
  with socket.socket() as s:
    s.bind(('', 0))
    return s.getsockname()[1]


@pytest.fixture
def start():
  """f(*work) -> a joined process for each; none is left."""
  running = []

  def join(*work, before=''):
    port = str(free_port())
    for index, what in enumerate(work):
      given = [port, str(index), what, before]
      command = [sys.executable, '-c', PROCESS, *given]
      running.append(
        subprocess.Popen(
          command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
      )
    for process in running:
      assert process.stdout.readline() == 'joined\n', process.stderr.read()
    return running

  yield join
  for process in running:
    process.kill()
    process.communicate()


def ends_lost(process, words):
  _, said = process.communicate(timeout=60)
  assert process.returncode == EXIT_LOST, said
  assert words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize('lost', [0, 2])
def test_one_dies(start, lost):
  processes = start(WORK, WORK, WORK)
  processes.pop(lost).kill()
  for process in processes:
    ends_lost(process, f'process {lost} died.')


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1])
def test_one_stands_still_for_long(start, lost):
  processes = start(WORK, WORK, WORK, before='peers.SILENT = 6.0')
  stopped = processes.pop(lost)
  stopped.send_signal(signal.SIGSTOP)
  for process in processes:
    ends_lost(process, f'process {lost} does not answer')
  stopped.send_signal(signal.SIGCONT)
  ends_lost(stopped, 'This process ends too')


def test_one_stands_still_for_a_moment(start):
  processes = start(*['time.sleep(4)'] * 3)
  processes[1].send_signal(signal.SIGSTOP)
  time.sleep(1)
  processes[1].send_signal(signal.SIGCONT)
  for process in processes:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.mark.parametrize(
  'error, shown',
  [
    ("UserError('no file x')", 'no file x'),
    ("ValueError('two\\nlines')", 'ValueError: two'),
  ],
)
def test_one_fails_before_the_others(start, error, shown):
  slow = """
tell = peers._Watch.tell
def tell_and_wait(self, line, to=None):
  tell(self, line, to)
  time.sleep(1.0 if line.startswith('failed') else 0.0)
peers._Watch.tell = tell_and_wait
"""  # the answer of the others comes before this process has ended
  *others, failing = start(WORK, WORK, f'raise {error}', before=slow)
  _, said = failing.communicate(timeout=60)
  assert failing.returncode == 1 and shown in said
  for process in others:
    ends_lost(process, f'process 2 failed: {shown}')


@pytest.mark.slow
def test_an_abort_is_explained_where_process_0_is_gone(start):
  """JAX aborts then, a little before the watch sees it or while it says it."""
  grace = 'peers._GRACE = 5.0\n'
  slow = """
end = os._exit
os._exit = lambda code: time.sleep(2.5) or end(code)
"""  # between the words and the end
  first, *others = start(
    'time.sleep(2); end(9)',
    'time.sleep(1.5); os.abort()',
    'time.sleep(2.5); os.abort()',
    before=grace + slow,
  )
  for process in others:
    ends_lost(process, 'process 0 died.')
  assert first.wait(timeout=60) == 9


def test_a_bug_aborts_as_ever(start):
  first, other, bug = start(WORK, WORK, 'os.abort()')
  assert bug.wait(timeout=60) == -signal.SIGABRT
  for process in first, other:
    ends_lost(process, 'process 2 died.')


def test_those_that_end_first_are_not_lost(start):
  for process in start('time.sleep(1)', 'pass', 'time.sleep(2)'):
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_who_is_missing_is_said(monkeypatch, capsys):
  monkeypatch.setattr(peers, '_SAID', 0.5)
  port = free_port()
  with pytest.raises(UserError, match=r'2 of 3 processes \(1, 2\) did not'):
    peers.join('127.0.0.1', port, 3, 0, patience=2)
  said = f'waiting for 2 of 3 processes (1, 2) at 127.0.0.1:{port}'
  assert said in capsys.readouterr().out
  with pytest.raises(UserError, match='process 0 did not come'):
    peers.join('127.0.0.1', port, 3, 1, patience=1)


@pytest.mark.parametrize('lost, silent', [(0, 2.0), (1, 20.0)])
def test_one_dies_while_the_others_still_come(lost, silent):
  """Process 2 comes when it is too late; all are told who is lost."""
  code = (
    'import sys\n'
    'from pixeldit_jax.train.run import peers\n'
    f'peers.SILENT, peers._SAID = {silent}, 2.0\n'
    'port, index = int(sys.argv[1]), int(sys.argv[2])\n'
    "peers.join('127.0.0.1', port, 4, index, 60)\n"
  )
  port = str(free_port())

  def start(index):
    return subprocess.Popen(
      [sys.executable, '-c', code, port, str(index)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  processes = [start(index) for index in (0, 1, 3)]
  while '1 of 4 processes (2)' not in processes[0].stdout.readline():
    assert processes[0].poll() is None
  processes.pop(lost).kill()
  began = time.monotonic()
  if lost:  # process 0 is there, and tells it
    ends_lost(processes[1], 'process 1 died.')
    processes.append(start(2))
  for process in processes:
    ends_lost(process, f'process {lost} died.')
  assert not lost or time.monotonic() - began < silent
