"""A resumable job that writes shards: what is done, and what is left to do.

  folder/.work/job.json   the settings, written first
  folder/.work/REPORT     one for each finished shard
  folder/SHARD
  folder/MANIFEST         written last; `.work` is then removed

A shard is written under a temporary name and renamed, then its report appears.
A job that was killed at any moment goes on with the shards that have no report,
to the same bytes as one that was not.

A `ShardTask` writes one shard and knows of no other. A `Runner` decides where
tasks run: here, in the processes of `process_runner`, or on the cluster of
`dask_runner`. A `ShardJob` keeps the account; several processes may share it
over one file system.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.settings import as_json, check_same, flatten
from pixeldit_jax.storage import buckets

# What the manifest needs of a shard, as JSON values: its `files.Entry` and the
# number of 'examples', and what else the task counts.
Report = dict[str, Any]


class ShardTask:
  """Writes shards; can be pickled where its runner has other processes.

  Attributes:
    folder: of the shards.
  """

  folder: str

  def write(self, index: int) -> Report:
    """Writes one complete shard under its final name; returns its report."""
    raise NotImplementedError

  def write_all(self, indices: Sequence[int]) -> Iterator[Report]:
    """Writes several shards in turn, for runners of one process.

    A task that reads ahead overrides it, to do so across shards.
    """
    for index in indices:
      yield self.write(index)


# runner(task, indices of shards) -> (index, report), in any order.
Runner = Callable[
  [ShardTask, Sequence[int]], Generator[tuple[int, Report], None, None]
]


def run_here(
  task: ShardTask, indices: Sequence[int]
) -> Generator[tuple[int, Report], None, None]:
  """The `Runner` that writes shard after shard in this process."""
  yield from zip(indices, task.write_all(indices))


@dataclasses.dataclass(frozen=True)
class Peers:
  """The processes that share a job over one file system; each calls the same.

  Attributes:
    index: of this process; it writes every `count`-th shard.
    count: of the processes.
    barrier: returns once every process has called it.
  """

  index: int = 0
  count: int = 1
  barrier: Callable[[], None] = lambda: None


ALONE = Peers()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
  """The account of one job.

  Attributes:
    folder: of the shards and the manifest.
    work: name of the folder inside for settings and reports.
    manifest: file name.
    settings: what decides the bytes of the shards, as JSON values.
    stored_settings: reads the settings in the manifest.
    shards: file names, in order.
    reports: file name of the report of each shard.
    fix: what a user can do who wants other settings.
    peers: the processes that share the job.
  """

  folder: str
  work: str
  manifest: str
  settings: Mapping[str, Any]
  stored_settings: Callable[[], Mapping[str, Any]]
  shards: Sequence[str]
  reports: Sequence[str]
  fix: str
  peers: Peers = ALONE

  def is_done(self) -> bool:
    """Whether the manifest is there.

    Raises:
      UserError: the folder holds the same job with other settings, finished or
        not.
    """
    done = epath.Path(os.path.join(self.folder, self.manifest)).exists()
    if done:
      name, stored = self.manifest, self.stored_settings()
    elif epath.Path(self._work_path('job.json')).exists():
      name = f'{self.work}/job.json'
      stored = files.read_json(self._work_path('job.json'))
    else:
      return False
    check_same(
      f'{os.path.join(self.folder, name)} was written with',
      flatten({k: v for k, v in stored.items() if k in self.settings}),
      flatten(as_json(self.settings)),
      self.fix,
    )
    if done and self.peers.index == 0:
      # A run may have been killed after it wrote the manifest.
      _remove(self._work_path())
    return done

  def run(
    self, task: ShardTask, runner: Runner = run_here
  ) -> Iterator[tuple[int, Report]]:
    """Writes this process's shards that have no report yet.

    Yields:
      The index and report of each, once it is on disk.
    """
    if self.peers.index == 0:
      files.write_json(self._work_path('job.json'), self.settings, indent=1)
    self.peers.barrier()
    mine = range(len(self.shards))[self.peers.index :: self.peers.count]
    done = self.finished()
    missing = [index for index in mine if index not in done]
    names = [self.shards[index] for index in missing]
    files.remove_temporaries(self.folder, names)
    names = [self.reports[index] for index in missing]
    files.remove_temporaries(self._work_path(), names)
    with contextlib.closing(runner(task, missing)) as running:
      for index, report in running:
        files.write_json(self._work_path(self.reports[index]), report)
        yield index, report
    self.peers.barrier()

  def finished(self) -> dict[int, Report]:
    """Returns the reports of the shards that are complete, by their index."""
    with concurrent.futures.ThreadPoolExecutor(buckets.THREADS) as pool:
      found = pool.map(self._read_report, range(len(self.shards)))
      return {i: report for i, report in enumerate(found) if report is not None}

  def discard(self, index: int) -> None:
    """Has a shard written again by the next run."""
    epath.Path(self._work_path(self.reports[index])).unlink()

  def finish(
    self, make_manifest: Callable[[list[Report]], Mapping[str, Any]]
  ) -> None:
    """Writes the manifest, made from all reports, and removes the latter.

    Raises:
      UserError: shards that were written are not here.
    """
    if self.peers.index == 0:
      reports = self.finished()
      if absent := [n for i, n in enumerate(self.shards) if i not in reports]:
        raise UserError(
          f'{self.folder} lacks {len(absent)} shards that were written, such '
          f'as {absent[0]}: all who write have to see the same folder'
        )
      manifest = make_manifest([reports[i] for i in range(len(self.shards))])
      path = os.path.join(self.folder, self.manifest)
      files.write_json(path, manifest, indent=1, ensure_ascii=False)
      _remove(self._work_path())
    self.peers.barrier()

  def _work_path(self, *names: str) -> str:
    return os.path.join(self.folder, self.work, *names)

  def _read_report(self, index: int) -> Report | None:
    """Returns the report of a shard that is complete, else None."""
    path = self._work_path(self.reports[index])
    if not epath.Path(path).exists():
      return None
    report = files.read_json(path)
    return None if files.verify_files(self.folder, [report]) else report


def _remove(folder: str) -> None:
  """Removes a folder of reports, if it is there."""
  if buckets.is_remote(folder):
    buckets.remove_below(folder)
  else:
    shutil.rmtree(folder, ignore_errors=True)
