"""A cluster writes the shards of one process, whatever dies on the way."""

import contextlib
import dataclasses
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import cloudpickle
import dask
import distributed
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.convert.autoencoder import to_autoencoder
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import write_dinov2
from pixeldit_jax.data.prepare import (
  dask_runner,
  latents,
  prepare,
  shard_job,
  teacher_features,
  text_embeddings,
)
from pixeldit_jax.data.prepare.plan import plan
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.encoders.autoencoder import Autoencoder, AutoencoderConfig
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.pixeldit import weights_of


class Workers:
  """Two worker processes, each started again when it ends.

  Dask's own nannies give up on a worker that ends as it starts.
  """

  def __init__(self, scheduler):
    self._command = [sys.executable, '-m', 'distributed.cli.dask_worker']
    self._command += [scheduler, '--no-nanny', '--nthreads=1', '--no-dashboard']
    self._processes = [subprocess.Popen(self._command) for _ in range(2)]
    self._ended = threading.Event()
    self._watching = threading.Thread(target=self._watch)
    self._watching.start()

  def _watch(self):
    while not self._ended.wait(0.1):
      for k, process in enumerate(self._processes):
        if process.poll() is not None:
          self._processes[k] = subprocess.Popen(self._command)

  def close(self):
    self._ended.set()
    self._watching.join()
    for process in self._processes:
      process.kill()
      process.wait()


@pytest.fixture(scope='module')
def cluster(google_cloud, amazon_s3):
  """Two real worker processes; a shard is tried once more where one dies.

  They reach the servers of buckets.
  """
  with (
    dask.config.set(
      {
        'distributed.scheduler.allowed-failures': 1,
        'distributed.comm.timeouts.connect': '2s',  # to a dead worker
      }
    ),
    distributed.LocalCluster(n_workers=0, dashboard_address=None) as started,
    contextlib.closing(Workers(started.scheduler_address)),
  ):
    with distributed.Client(started) as client:
      client.wait_for_workers(2)
    yield started


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
  """24 pictures with captions in 8 shards; one cannot be read."""
  root = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)
  for i in range(24):
    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(root / f'{i:02d}.png')
    (root / f'{i:02d}.txt').write_text(f'picture {i}')
  (root / '05.png').write_bytes(b'bad')
  return PrepareSettings(f'images:{root}', 16, shard_size=3)


@pytest.fixture(scope='module')
def whole(settings, tmp_path_factory):
  out = tmp_path_factory.mktemp('whole') / 'out'
  prepare.prepare(settings, str(out), num_processes=1)
  return out


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def pids(cluster):
  with distributed.Client(cluster) as client:
    while True:  # one that was killed may not be missed yet
      found = client.run(os.getpid, on_error='ignore')
      if alive := [pid for pid in found.values() if isinstance(pid, int)]:
        return alive


@pytest.mark.slow
@pytest.mark.parametrize('place', ['disk', 'gs', 's3'])
def test_killed_workers_and_clients_cost_nothing_but_time(
  cluster, settings, whole, tmp_path, cloud, place
):
  """A worker is killed three times, the client once."""
  out = str(tmp_path / 'out')
  if place != 'disk':
    out = cloud(place, 'prepared-by-dask')
  kills = 0

  def killing(task, indices):
    nonlocal kills
    pids(cluster)  # waits for a worker
    with dask_runner.connect(cluster.scheduler_address) as (runner, threads):
      assert threads
      for item in runner(task, indices):
        yield item
        kills += 1
        if kills <= 3:
          os.kill(pids(cluster)[0], signal.SIGKILL)
        elif kills == 4:
          raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(settings, out, runner=killing)
  manifest = prepare.prepare(settings, out, runner=killing)
  assert {name: path.read_bytes() for name, path in files.walk(out)} == content(
    whole
  )
  assert [bad['name'] for bad in manifest['skipped']] == ['05.png']


def test_a_client_that_dies_loses_its_shards_in_hand_alone(
  cluster, settings, whole, tmp_path
):
  out = str(tmp_path / 'out')
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):

    def dying(task, indices):
      for done, item in enumerate(runner(task, indices)):
        if done == 3:
          raise KeyboardInterrupt
        yield item

    with pytest.raises(KeyboardInterrupt):
      prepare.prepare(settings, out, runner=dying)
  indices = []
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):

    def counting(task, missing):
      indices.extend(missing)
      return runner(task, missing)

    prepare.prepare(settings, out, runner=counting)
  assert len(indices) == 5 and content(out) == content(whole)


def test_texts_are_encoded_by_a_cluster(cluster, whole, tmp_path):
  outs = [str(shutil.copytree(whole, tmp_path / str(k))) for k in range(2)]
  text_embeddings.store(outs[0], WordEncoder(), batch_size=4)
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    text_embeddings.store(outs[1], WordEncoder(), batch_size=4, runner=runner)
  assert content(outs[0]) == content(outs[1])


def test_latents_are_made_by_a_cluster(cluster, whole, tmp_path):
  model = Autoencoder(
    AutoencoderConfig(widths=(32, 32), blocks=1), rngs=nnx.Rngs(0)
  )
  file = tmp_path / 'diffusion_pytorch_model.safetensors'
  write_safetensors(file, to_autoencoder(model))
  outs = [str(shutil.copytree(whole, tmp_path / str(k))) for k in range(2)]
  moments = latents.Moments(str(file))
  meta = moments.describe(16)
  latents.store_latents(outs[0], moments, meta, batch_size=4)
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    latents.store_latents(outs[1], moments, meta, batch_size=4, runner=runner)
  assert content(outs[0]) == content(outs[1])


def test_another_process_opens_the_same_teacher_again(tmp_path):
  config = VisionConfig(width=64, depth=1, heads=1, grid=2, dtype='float32')
  paths = [tmp_path / f'{k}.safetensors' for k in range(2)]
  for seed, path in enumerate(paths):
    weights = weights_of(DINOv2(config, rngs=nnx.Rngs(seed)))
    write_dinov2(path, config, weights)
  teacher = teacher_features.Teacher(str(paths[0]), 8)
  images = np.full((8, 16, 16, 3), 99, np.uint8)
  sent = pickle.dumps(teacher)
  again = pickle.loads(sent)
  np.testing.assert_array_equal(again(images), teacher(images))
  assert again.describe(16) == teacher.describe(16)
  paths[1].rename(paths[0])
  with pytest.raises(UserError, match='differs between the machines'):
    pickle.loads(sent)(images)


@dataclasses.dataclass(frozen=True)
class Deadly(shard_job.ShardTask):
  """Shard 1 ends its worker."""

  folder: str

  def write(self, index):
    if index == 1:
      os._exit(1)
    path = f'{self.folder}/{index}.txt'
    files.write_text(path, f'{index}')
    return files.entry_of(path)


class ByValue(shard_job.ShardTask):
  """A task that a worker can load, which cannot import a test file."""

  def __init__(self, task):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    self._data = cloudpickle.dumps(task)

  def __reduce__(self):
    return pickle.loads, (self._data,)


@pytest.mark.slow
def test_a_shard_that_kills_workers_is_named_and_no_other_lost(
  cluster, tmp_path
):
  task, done = ByValue(Deadly(str(tmp_path))), []
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    with pytest.raises(UserError, match=r'shards \[1\] were not written'):
      for index, _ in runner(task, range(4)):
        done.append(index)
  assert sorted(done) == [0, 2, 3]


class DeadlyToLoad(Deadly):
  """The first two workers that load it end."""

  def __setstate__(self, state):
    self.__dict__.update(state)
    loads = len(list(pathlib.Path(self.folder).glob('load*')))
    if loads < 2:
      pathlib.Path(self.folder, f'load{loads}').touch()
      os._exit(1)


@pytest.mark.slow
def test_workers_that_die_while_they_load_the_task_cost_no_shard(
  cluster, tmp_path
):
  task = ByValue(DeadlyToLoad(str(tmp_path)))
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    assert sorted(i for i, _ in runner(task, [2, 3, 4])) == [2, 3, 4]
  assert len(list(tmp_path.glob('load*'))) == 2


def test_the_log_says_when_no_worker_is_left(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(dask_runner, '_SECONDS', 1)
  with (
    distributed.LocalCluster(
      n_workers=1, processes=False, dashboard_address=None
    ) as cluster,
    dask_runner.connect(cluster.scheduler_address) as (runner, _),
  ):
    assert len(list(runner(Deadly(str(tmp_path)), [2, 3]))) == 2
    assert 'no worker' not in caplog.text
    cluster.scale(0)
    while 'no worker of the cluster is left: waiting' not in caplog.text:
      time.sleep(0.1)


def test_what_workers_cannot_see_is_refused(cluster, tmp_path):
  task = ByValue(Deadly(str(tmp_path / 'elsewhere')))
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    with pytest.raises(UserError, match='elsewhere is not there on the worker'):
      list(runner(task, [0]))


def test_a_lost_scheduler_ends_the_job_in_one_line(
  cluster, tmp_path, monkeypatch
):
  monkeypatch.setattr(dask_runner, '_SECONDS', 1)
  task = ByValue(Deadly(str(tmp_path)))
  # The last test that uses the cluster: it is gone afterwards.
  with dask_runner.connect(cluster.scheduler_address) as (runner, _):
    running = runner(task, [*range(2, 2000)])
    next(running)
    cluster.close()
    with pytest.raises(UserError, match='scheduler was lost; run the same'):
      list(running)


@pytest.mark.parametrize(
  'where, message',
  [
    ('tcp://127.0.0.1:9', 'no scheduler answers there'),
    ('nonsense', 'neither an address'),
    ('no://where', 'no scheduler answers there'),
  ],
)
def test_without_a_scheduler_it_is_one_line(monkeypatch, where, message):
  monkeypatch.setattr(dask_runner, '_SECONDS', 1)
  with pytest.raises(UserError, match=message):
    dask_runner.connect(where).__enter__()


@pytest.mark.slow
def test_a_scheduler_of_another_environment_is_one_line(tmp_path, monkeypatch):
  module, file = types.ModuleType('only_here'), tmp_path / 'scheduler.json'
  exec('def write(task, index): pass', module.__dict__)
  monkeypatch.setitem(sys.modules, 'only_here', module)
  monkeypatch.setattr(dask_runner, '_write', module.write)
  scheduler = subprocess.Popen(
    [sys.executable, '-m', 'distributed.cli.dask_scheduler', '--port=0']
    + ['--no-dashboard', f'--scheduler-file={file}']
  )
  try:
    while not file.exists() or not file.read_text():
      assert scheduler.poll() is None
    with dask_runner.connect(str(file)) as (runner, threads):
      assert not threads
      with pytest.raises(UserError, match='scheduler cannot load this package'):
        list(runner(Deadly(str(tmp_path)), [0]))
  finally:
    scheduler.kill()
    scheduler.wait()


def test_without_the_package_it_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'distributed', None)
  with pytest.raises(UserError, match=r'pixeldit_jax\[dask\]'):
    dask_runner.connect('tcp://127.0.0.1:9').__enter__()


def test_the_plan_tells_shards_and_bytes_from_a_sample(settings, whole):
  found = plan(settings)
  written = sum(path.stat().st_size for path in whole.glob('*.array_record'))
  assert (found.examples, found.shards, found.left_out) == (24, 8, 1)
  assert found.bytes == written
  sampled = plan(settings, most=8)
  assert sampled.measured == 8
  text = dataclasses.replace(found, seconds_each=300.0).describe(4, price=2.0)
  assert '0:30:00 on 4 cores' in text and 'cost 4.00' in text
