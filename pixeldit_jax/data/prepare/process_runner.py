"""Runs the tasks of a job in several processes of this machine."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Generator, Sequence

from pixeldit_jax.data.prepare.shard_job import Report, Runner, ShardTask
from pixeldit_jax.errors import UserError
from pixeldit_jax.storage import buckets


def run_in_processes(count: int) -> Runner:
  """Returns the `Runner` that keeps `count` processes busy."""

  def run(
    task: ShardTask, indices: Sequence[int]
  ) -> Generator[tuple[int, Report], None, None]:
    if not indices:
      return
    pool = concurrent.futures.ProcessPoolExecutor(
      min(count, len(indices)),
      multiprocessing.get_context('spawn'),  # a fork would copy JAX's threads
      initializer=_begin,
      initargs=(task,),
    )
    try:
      running = {pool.submit(_write, index): index for index in indices}
      for future in concurrent.futures.as_completed(running):
        yield running[future], future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise UserError(
        'a process was killed from outside (out of memory?); run the same '
        'command again to go on, perhaps with fewer processes'
      ) from error
    finally:
      pool.shutdown(cancel_futures=True)

  return run


_task: list[ShardTask] = []  # the one that this process of the pool works on


def _begin(task: ShardTask) -> None:
  """Takes the task once, in place of with every shard."""
  _task[:] = [task]
  buckets.check(task.folder)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)  # the pool's queue would keep an orphan waiting for ever


def _write(index: int) -> Report:
  return _task[0].write(index)
