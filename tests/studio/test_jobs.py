"""The queue: one after another, watched, cancelled, and errors told."""

import threading
import types

import numpy as np
import pytest

from pixeldit_jax.errors import UserError
from pixeldit_jax.studio import jobs

IMAGES = np.zeros((1, 2, 2, 3), np.uint8)


@pytest.fixture
def queue():
  made = jobs.JobQueue()
  yield made
  made.close()


def wait(queue, job):
  """Until all that is queued is done."""
  done = threading.Event()
  queue.submit(lambda job: done.set(), '')
  assert done.wait(60)
  return job


def step(number, steps=3):
  return types.SimpleNamespace(number=number, steps=steps, images=IMAGES)


def test_a_job_shows_its_steps_and_ends(queue):
  seen = []

  def work(job):
    job.progress(step(1))
    seen.append((job.state, job.step, job.steps))
    return IMAGES

  job = wait(queue, queue.submit(work, 'pixeldit sample'))
  assert seen == [('running', 1, 3)]
  assert job.state == 'done' and job.command == 'pixeldit sample'
  assert queue.get(job.number) is job


def test_batches_that_are_finished_stay_in_sight(queue):
  seen = []

  def work(job):
    for number in (2, 3, 1, 2):  # of two batches
      job.progress(step(number))
      seen.append(len(job.images))

  wait(queue, queue.submit(work, ''))
  assert seen == [1, 1, 2, 2]


def test_a_job_is_cancelled_while_it_runs_or_before(queue):
  begun, go_on = threading.Event(), threading.Event()

  def work(job):
    begun.set()
    assert go_on.wait(60)
    job.progress(step(1))
    raise AssertionError('it was not cancelled')

  running = queue.submit(work, '')
  waiting = queue.submit(work, '')
  assert begun.wait(60)
  queue.cancel(waiting.number)
  queue.cancel(running.number)
  go_on.set()
  wait(queue, running)
  assert running.state == waiting.state == 'cancelled'


def test_errors_are_told_and_the_next_job_runs(queue):
  def refuse(job):
    raise UserError('no such class')

  def break_down(job):
    raise KeyError('secret')

  refused = queue.submit(refuse, '')
  broken = wait(queue, queue.submit(break_down, ''))
  assert (refused.state, refused.error) == ('failed', 'no such class')
  assert broken.state == 'failed' and 'secret' not in broken.error


def test_too_many_jobs_are_refused(queue):
  go_on = threading.Event()
  first = queue.submit(lambda job: go_on.wait(60), '')
  with pytest.raises(UserError, match='wait already'):
    for _ in range(jobs.MOST_WAITING + 2):
      queue.submit(lambda job: None, '')
  go_on.set()
  assert first.state in ('queued', 'running', 'done')
  with pytest.raises(UserError, match='no job 999'):
    queue.get(999)
