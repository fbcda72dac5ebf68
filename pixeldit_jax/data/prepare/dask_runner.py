"""Runs the tasks of a job on the workers of a Dask cluster.

Dask restarts what a dead worker had in hand. It would also repeat what that
worker had finished, as long as a client holds the futures: they are released
as their reports come. What is done is known from the reports on disk alone.
"""

import contextlib
import itertools
import logging
import os
import pickle
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from etils import epath

from pixeldit_jax.data.prepare.shard_job import Report, Runner, ShardTask
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.storage import buckets

log = logging.getLogger(__name__)

_SECONDS = 10  # to wait for the scheduler
_ABSENT = (
  'the Dask scheduler cannot load this package: give it the environment that '
  "the workers have (pip install 'pixeldit_jax[dask]')"
)
_LOST = 'the Dask scheduler was lost; run the same command again to go on'
_AHEAD = 64  # shards that a cluster without workers is given, to grow by


@contextlib.contextmanager
def connect(cluster: str) -> Iterator[tuple[Runner, int]]:
  """Yields the `Runner` that writes shards on a cluster, and its threads now.

  Workers may come and go. They need this package, as the scheduler does, and
  the folders of the source and of the shards under the same names.

  Args:
    cluster: the scheduler's address, as 'tcp://host:8786', or the path of the
      file that it wrote.

  Raises:
    MissingPackageError: Dask is not installed.
    UserError: no scheduler answers.
  """
  try:
    import distributed
  except ImportError as error:
    raise MissingPackageError(
      "--dask needs the package distributed: pip install 'pixeldit_jax[dask]'."
    ) from error

  if '://' in cluster:
    where = dict(address=cluster)
  elif os.path.isfile(cluster):  # for one that is absent Dask waits for ever
    where = dict(scheduler_file=cluster)
  else:
    raise UserError(
      f'--dask={cluster} is neither an address such as tcp://host:8786 nor a '
      "file that 'dask scheduler --scheduler-file' wrote."
    )
  try:
    client = distributed.Client(**where, timeout=_SECONDS)
  except (OSError, ValueError) as error:
    raise UserError(
      f'--dask={cluster}: no scheduler answers there ({error}). Start one, see '
      'launch/README.md.'
    ) from error
  with client:
    threads = _threads(client)
    if not threads:
      log.warning('%s has no worker yet: waiting for one', cluster)
    with _told_without_workers(client, threads):
      yield lambda task, indices: _run(client, task, indices), threads


@contextlib.contextmanager
def _told_without_workers(client: Any, threads: int) -> Iterator[None]:
  """Has the log say when the last worker is gone.

  Dask starts no worker again that ends before the process above it has read its
  address (distributed 2026.8.0, `Nanny._on_worker_exit`), as one does that is
  given a deadly shard at once: a cluster can lose all its workers so.
  """
  ended = threading.Event()

  def watch() -> None:
    before = threads
    with contextlib.suppress(UserError):  # a lost scheduler: `_run` says so
      while not ended.wait(_SECONDS):
        now = _threads(client)
        if before and not now:
          log.warning(
            'no worker of the cluster is left: waiting for one; Dask starts '
            'none again that ends as soon as it starts'
          )
        before = now

  watching = threading.Thread(target=watch, daemon=True)
  watching.start()
  try:
    yield
  finally:
    ended.set()
    watching.join(_SECONDS)


def _run(
  client: Any, task: ShardTask, indices: Sequence[int]
) -> Generator[tuple[int, Report], None, None]:
  suspects: list[int] = []
  deadly: list[int] = []
  yield from _run_some(client, task, indices, suspects)
  # Dask also blames what only waited at the workers that died, and all shards
  # if the task was just being loaded there.
  for index in suspects:
    yield from _run_some(client, task, [index], deadly)
  if deadly:
    raise UserError(
      f'shards {deadly} were not written: each killed several workers (out of '
      'memory?); run the same command again to go on, perhaps with fewer '
      'threads for each worker, or smaller shards'
    )


def _run_some(
  client: Any, task: ShardTask, indices: Sequence[int], killed: list[int]
) -> Generator[tuple[int, Report], None, None]:
  """Writes shards; adds to `killed` those whose workers died each time."""
  from distributed import KilledWorker, as_completed
  from distributed.client import FutureCancelledError

  # Loaded by a separate task: Dask gives its result to each worker once, and
  # makes it again if the workers that have it die.
  shared = client.submit(pickle.loads, pickle.dumps(task), pure=False)
  waiting, completed = iter(indices), as_completed()
  running: dict[Any, int] = {}

  def submit() -> None:
    ahead = 2 * _threads(client) or _AHEAD
    for index in itertools.islice(waiting, max(0, ahead - len(running))):
      future = client.submit(_write, shared, index, pure=False)
      running[future] = index
      completed.add(future)

  try:
    submit()
    for future in completed:
      index = running.pop(future)
      try:
        report = future.result()
      except KilledWorker:
        killed.append(index)
      else:
        yield index, report
      future.release()
      submit()
  except FutureCancelledError as error:
    raise UserError(_LOST) from error
  except RuntimeError as error:
    if 'deserialization of the task graph' not in str(error):
      raise
    raise UserError(_ABSENT) from error
  finally:
    client.cancel([*running])


def _threads(client: Any) -> int:
  try:
    return sum(client.nthreads().values())
  except OSError as error:
    raise UserError(_LOST) from error


def _write(task: ShardTask, index: int) -> Report:
  """Writes a shard; runs on a worker."""
  buckets.check(task.folder)
  if not epath.Path(task.folder).is_dir():
    raise UserError(
      f'{task.folder} is not there on the worker {socket.gethostname()}: give '
      'a folder that all workers see under this name'
    )
  return task.write(index)
