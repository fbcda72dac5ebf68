"""A process that is asked to stop; pairs of processes are in test_kill."""

import os
import signal

from pixeldit_jax.train.run.preemption import StopRequest


def test_a_preemption_is_noticed():
  before = signal.getsignal(signal.SIGTERM)
  with StopRequest() as stop:
    assert not stop.now()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.now() and stop.now()
  assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_ctrl_c_is_left_to_the_system(caplog):
  before = signal.getsignal(signal.SIGINT)
  with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.now()
    assert 'Press Ctrl-C again to stop at once' in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
  assert signal.getsignal(signal.SIGINT) is before
