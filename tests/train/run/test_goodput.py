"""Every second of a run belongs to one phase."""

import pytest

from pixeldit_jax.train.run import goodput
from pixeldit_jax.train.run.goodput import PHASES, Goodput


@pytest.fixture
def clock(monkeypatch):
  """A list whose only element is the time."""
  now = [1000.0]
  monkeypatch.setattr(goodput.time, 'perf_counter', lambda: now[0])
  return now


def run(clock, phases):
  """A start that spent these seconds."""
  spent = Goodput()
  for name, seconds in phases.items():
    with spent.phase(name):
      clock[0] += seconds
  return spent


def test_phases_add_up_to_all_of_the_time(clock):
  spent = Goodput()
  clock[0] += 5  # the start
  spent.start_phase('step')
  clock[0] += 60
  with spent.phase('evaluation'):
    clock[0] += 20
    with spent.phase('compile'):
      clock[0] += 10
  clock[0] += 5
  assert spent.seconds() == dict.fromkeys(PHASES, 0) | dict(
    start=5, step=65, evaluation=20, compile=10
  )
  fractions = spent.fractions()
  assert fractions['goodput/step'] == 0.65
  assert set(fractions) == {f'goodput/{name}' for name in PHASES}
  assert sum(fractions.values()) == 1


def test_steps_done_again_and_the_restart_are_lost(clock):
  saved = dict(start=5.0, compile=10.0, step=100.0)
  last = dict(start=5.0, compile=10.0, step=130.0, data=2.0)
  spent = Goodput()
  clock[0] += 7  # finding the checkpoint
  spent.resume(saved, last)
  clock[0] += 3  # until the first step
  with spent.phase('compile'):
    clock[0] += 4
  spent.start_phase('step')
  clock[0] += 50
  assert spent.seconds() == dict.fromkeys(PHASES, 0) | dict(
    start=5, compile=14, step=150, lost=7 + 3 + 32
  )


def test_a_clean_stop_loses_the_restart_alone(clock):
  last = run(clock, dict(compile=10.0, step=100.0)).seconds()
  spent = Goodput()
  clock[0] += 2
  spent.resume(last, last)
  spent.start_phase('step')
  assert spent.seconds() == last | dict(lost=2)
