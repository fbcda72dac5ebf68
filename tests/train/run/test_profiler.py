"""Traces of chosen steps, before and during a run."""

import jax
import jax.numpy as jnp
import pytest

from pixeldit_jax.config import get_config, parse_steps
from pixeldit_jax.train.run.profiler import ON_REQUEST, Tracer


@pytest.fixture
def profiler(monkeypatch):
  """What was asked of JAX's profiler: folders, and True at each end."""
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', calls.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append(True))
  return calls


def traced(tracer, steps, profiler):
  """The steps during which the profiler is on."""
  found = []
  for step in steps:
    tracer.before(step)
    if profiler and profiler[-1] is not True:
      found.append(step)
    tracer.after(step, jnp.float32(0))
  return found


def test_steps_are_read():
  assert parse_steps('') == range(0)
  assert parse_steps('100-110') == range(100, 111)
  assert parse_steps('7-7') == range(7, 8)
  for text in ('7', '0-3', '9-8', '1-2-3', '-1-2', 'a-b'):
    with pytest.raises(ValueError, match='first and last step'):
      parse_steps(text)


def test_the_named_steps_are_traced_once(tmp_path, profiler):
  config = get_config()
  config.log.trace = '5-7'
  tracer = Tracer(str(tmp_path), config)
  assert traced(tracer, range(1, 20), profiler) == [5, 6, 7]
  assert profiler == [str(tmp_path / 'events'), True]
  tracer.close()
  assert len(profiler) == 2


def test_a_run_that_starts_or_ends_within_them_traces_the_rest(
  tmp_path, profiler
):
  config = get_config()
  config.log.trace = '5-9'
  tracer = Tracer(str(tmp_path), config)
  assert traced(tracer, range(7, 9), profiler) == [7, 8]
  tracer.close()
  assert profiler[-1] is True


def test_a_running_job_is_traced_on_request(tmp_path, profiler):
  config = get_config()
  config.log.every = 4
  tracer = Tracer(str(tmp_path), config)
  assert traced(tracer, range(1, 7), profiler) == []
  (tmp_path / 'trace').touch()
  first = 9  # after it logged
  assert traced(tracer, range(7, 40), profiler) == list(
    range(first, first + ON_REQUEST)
  )
  assert not (tmp_path / 'trace').exists()
  (tmp_path / 'trace').touch()  # and again
  assert traced(tracer, range(40, 60), profiler)[0] == 41


def test_jax_writes_a_trace_that_tensorboard_shows(tmp_path):
  config = get_config()
  config.log.trace = '1-1'
  tracer = Tracer(str(tmp_path), config)
  tracer.before(1)
  tracer.after(1, jnp.ones(3) + 1)
  assert list((tmp_path / 'events' / 'plugins').rglob('*.xplane.pb'))
