"""A job goes on where it stopped, in any runner, and refuses other settings."""

import dataclasses
import json
import pathlib
import pickle
import sys
import threading

import cloudpickle
import pytest

from pixeldit_jax import files
from pixeldit_jax.data.prepare import shard_job
from pixeldit_jax.data.prepare.process_runner import run_in_processes
from pixeldit_jax.errors import UserError

COUNT = 5


@dataclasses.dataclass(frozen=True)
class WriteNumbers(shard_job.ShardTask):
  """Shard i is the text of i; some shards fail."""

  folder: str
  failing: tuple[int, ...] = ()

  def write(self, index):
    if index in self.failing:
      raise UserError(f'no shard {index}')
    path = f'{self.folder}/{index}.txt'
    files.write_text(path, f'number {index}')
    return files.entry_of(path) | {'examples': 1}


def make_job(folder, peers=shard_job.ALONE, **settings):
  folder = str(folder)
  return shard_job.ShardJob(
    folder=folder,
    work='.numbers',
    manifest='numbers.json',
    settings={'kind': 'numbers'} | settings,
    stored_settings=lambda: files.read_json(f'{folder}/numbers.json')['job'],
    shards=[f'{k}.txt' for k in range(COUNT)],
    reports=[f'{k}.json' for k in range(COUNT)],
    fix='Delete numbers.json.',
    peers=peers,
  )


def complete(job, task, runner=shard_job.run_here):
  written = [index for index, _ in job.run(task, runner)]
  job.finish(lambda reports: {'job': job.settings, 'files': reports})
  return written


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


@pytest.fixture
def whole(tmp_path):
  """The files of a job that nothing interrupted."""
  folder = tmp_path / 'whole'
  assert complete(make_job(folder), WriteNumbers(str(folder))) == [*range(5)]
  return content(folder)


def test_a_failed_shard_is_written_by_the_next_run(tmp_path, whole):
  folder = tmp_path / 'out'
  job = make_job(folder)
  with pytest.raises(UserError, match='no shard 2'):
    complete(job, WriteNumbers(str(folder), failing=(2,)))
  assert not job.is_done() and list(job.finished()) == [0, 1]
  (folder / '0.txt').unlink()  # lost after its report
  (folder / '.tmp-7_ab-2.txt').write_text('half')
  assert complete(job, WriteNumbers(str(folder))) == [0, 2, 3, 4]
  assert job.is_done() and content(folder) == whole


def test_a_discarded_shard_is_written_again(tmp_path, whole):
  folder = tmp_path / 'out'
  job = make_job(folder)
  next(job.run(WriteNumbers(str(folder))))
  job.discard(0)
  assert complete(job, WriteNumbers(str(folder))) == [*range(5)]
  assert content(folder) == whole


def test_other_settings_are_refused_begun_or_done(tmp_path):
  job = make_job(tmp_path)
  next(job.run(WriteNumbers(str(tmp_path))))
  other = make_job(tmp_path, kind='letters')
  with pytest.raises(UserError, match='(?s)job.json.*kind: numbers stored'):
    other.is_done()
  complete(job, WriteNumbers(str(tmp_path)))
  with pytest.raises(UserError, match='(?s)numbers stored, letters asked.*Del'):
    other.is_done()


def test_reports_left_after_the_manifest_are_removed(tmp_path):
  job = make_job(tmp_path)
  complete(job, WriteNumbers(str(tmp_path)))
  (tmp_path / '.numbers').mkdir()
  (tmp_path / '.numbers' / 'job.json').write_text('{}')
  assert job.is_done() and not (tmp_path / '.numbers').exists()


def test_processes_write_the_same_shards(tmp_path, whole, monkeypatch):
  # The processes of the pool cannot import a test file.
  cloudpickle.register_pickle_by_value(sys.modules[__name__])
  folder = tmp_path / 'out'
  task = ByValue(cloudpickle.dumps(WriteNumbers(str(folder))))
  assert sorted(complete(make_job(folder), task, run_in_processes(2))) == [
    *range(5)
  ]
  assert content(folder) == whole


class ByValue(shard_job.ShardTask):
  """A task that a process can load without this file."""

  def __init__(self, data):
    self._data = data

  def __reduce__(self):
    return pickle.loads, (self._data,)


def test_peers_share_the_shards(tmp_path, whole):
  folder = tmp_path / 'out'
  barrier, written = threading.Barrier(2), {}

  def work(index):
    peers = shard_job.Peers(index, 2, barrier.wait)
    job = make_job(folder, peers)
    written[index] = complete(job, WriteNumbers(str(folder)))

  threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  assert written == {0: [0, 2, 4], 1: [1, 3]} and content(folder) == whole


def test_shards_that_were_written_elsewhere_are_named(tmp_path):
  job = make_job(tmp_path / 'here')
  (tmp_path / 'there').mkdir()
  task = WriteNumbers(str(tmp_path / 'there'))
  with pytest.raises(UserError, match='lacks 5 shards .* such as 0.txt'):
    complete(job, task)


def test_the_manifest_has_the_reports_in_order(tmp_path):
  complete(make_job(tmp_path), WriteNumbers(str(tmp_path)))
  found = json.loads((tmp_path / 'numbers.json').read_text())['files']
  assert [entry['file'] for entry in found] == [f'{k}.txt' for k in range(5)]
  assert not files.verify_files(tmp_path, found, checksums=True)
