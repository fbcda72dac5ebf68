"""Two trainers on one workdir: the second refuses, until the first is gone."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
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
