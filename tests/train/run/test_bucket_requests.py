"""What a run in a bucket asks of it, and what it does where that fails."""

import os
import time
import uuid

import fsspec
import jax.numpy as jnp
import pytest
from etils import epath
from fault_proxy import CUT, LOST, Proxy

from pixeldit_jax import files
from pixeldit_jax.config import get_config
from pixeldit_jax.errors import OutputError, UserError
from pixeldit_jax.storage import (
  amazon_s3,
  buckets,
  downloads,
  google_cloud,
  patience,
)
from pixeldit_jax.train.checkpoint.folders import steps_in
from pixeldit_jax.train.run.profiler import Tracer
from pixeldit_jax.train.run.record import Record
from pixeldit_jax.train.run.tensorboard import EventFiles

KINDS = (503, CUT, LOST, 429, 0.5)


@pytest.fixture(params=['gs', 's3'])
def proxied(request, cloud, monkeypatch):
  """A bucket's URL, and the proxy through which it is reached."""
  scheme = request.param
  url = cloud(scheme, f'proxied-{uuid.uuid4().hex}')
  name = dict(gs='STORAGE_EMULATOR_HOST', s3='AWS_ENDPOINT_URL')[scheme]
  with Proxy(os.environ[name].removeprefix('http://')) as proxy:
    monkeypatch.setenv(name, proxy.url)
    forget_addresses()
    buckets.check(url)
    yield url, proxy
  monkeypatch.undo()
  forget_addresses()


def forget_addresses():
  """The clients have read them when they were made."""
  google_cloud._client.cache_clear()
  amazon_s3._client.cache_clear()
  buckets._check.cache_clear()
  epath.backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  for scheme in ('gs', 's3'):
    fsspec.get_filesystem_class(scheme).clear_instance_cache()


def at(moments, fault):
  """A fault at requests of these numbers."""
  count = iter(range(10**6))
  return lambda method, path: fault if next(count) in moments else None


def test_logged_steps_ask_nothing_of_a_bucket(proxied):
  url, proxy = proxied
  config = get_config()
  config.log.every = 1
  events = EventFiles(epath.Path(url) / 'events', 0)
  tracer, record = Tracer(url, config), Record(url, config)
  record.progress(None)
  before = len(proxy.requests)
  for step in range(1, 1001):
    tracer.before(step)
    events.add(step, {'loss': 1.0})
    record.advance(step)
    record.progress(None)
    tracer.after(step, jnp.float32(0))
  assert len(proxy.requests) == before
  record.progress(1000)
  events.close()
  assert len(proxy.requests) <= before + 3
  assert files.read_json(f'{url}/progress.json')['saved'] == 1000


def work(url):
  """Ten requests and more; what is there at the end is known."""
  lock = buckets.Object(f'{url}/lock')
  for beat in range(3):
    assert lock.replace(f'beat {beat}')
  files.write_json(f'{url}/work/state.json', [1])
  with files.replacing(f'{url}/work/folder') as made:
    made.mkdir()
    (made / 'a').write_text('one')
    (made / 'b').write_text('two')
  copy = downloads.fetch(f'{url}/work')
  assert {n: p.read_text() for n, p in files.walk(copy)} == {
    'folder/a': 'one',
    'folder/b': 'two',
    'state.json': '[\n  1\n]\n',
  }
  assert not buckets.foreign(f'{url}/work')
  buckets.remove_below(url + '/work')
  assert not buckets.below(f'{url}/work')


def suffer(url, proxy, moments, kinds):
  for moment, kind in zip(moments, kinds):
    proxy.fault = at({moment}, kind)
    begin = time.monotonic()
    work(url)
    assert time.monotonic() < begin + 60, (moment, kind)


def test_a_cut_connection_and_a_busy_server_are_survived(
  proxied, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  suffer(*proxied, [5, 6, 7], KINDS)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_each_fault_at_ten_moments_is_survived(
  proxied, tmp_path, monkeypatch, kind
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  suffer(*proxied, range(10), [kind] * 10)


@pytest.mark.slow
@pytest.mark.parametrize('status', [401, 403])
def test_credentials_that_run_out_at_ten_moments_end_it(
  proxied, tmp_path, monkeypatch, status
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  url, proxy = proxied
  for moment in range(10):
    proxy.fault = at(range(moment, 10**6), status)
    begin = time.monotonic()
    with pytest.raises(Exception) as error:
      work(url)
    assert isinstance(error.value, UserError) or buckets.refusal(error.value)
    assert time.monotonic() < begin + 15


def write(url):
  files.write_json(f'{url}/state.json', [2])


def read(url):
  epath.Path(f'{url}/state.json').read_text()


@pytest.mark.parametrize('work', [write, read])
@pytest.mark.parametrize(
  'fault', [503, pytest.param(20.0, marks=pytest.mark.slow)]
)
def test_a_bucket_that_fails_for_good_is_given_up(proxied, work, fault):
  url, proxy = proxied
  write(url)
  proxy.fault = lambda method, path: fault
  took = []
  for _ in range(2):  # what a command that ends does then is tried once
    begin = time.monotonic()
    with pytest.raises(Exception) as error:
      work(url)
    assert buckets.refusal(error.value)
    took.append(time.monotonic() - begin)
  assert took[0] < 15 and took[1] < (2 if fault == 503 else 12)
  proxy.fault = lambda method, path: None
  work(url)
  proxy.fault = at([0], 503)
  work(url)  # and is asked again as before


@pytest.mark.parametrize('fault', [403, 503, CUT])
def test_what_is_refused_is_not_taken_for_absent(proxied, fault, monkeypatch):
  """A run would begin anew over its checkpoints."""
  url, proxy = proxied
  monkeypatch.setattr(patience, 'LIMIT', 0.5)
  path = epath.Path(url) / 'checkpoints'
  assert steps_in(path) == [] and not path.exists()
  proxy.fault = lambda method, path: fault
  asked = dict(steps=lambda: steps_in(path), dir=path.is_dir, file=path.is_file)
  for ask in asked.values():
    with pytest.raises(Exception) as error:
      ask()
    assert buckets.refusal(error.value), fault


@pytest.mark.parametrize('status', [401, 403])
def test_credentials_that_run_out_are_one_line(proxied, status, caplog):
  url, proxy = proxied
  files.write_json(f'{url}/state.json', [1])
  proxy.fault = lambda method, path: status
  begin = time.monotonic()
  with pytest.raises(OutputError, match='state.json could not be') as error:
    files.write_json(f'{url}/state.json', [2])
  assert '\n' not in str(error.value) and time.monotonic() < begin + 15
  with pytest.raises(Exception) as error:
    epath.Path(f'{url}/state.json').read_text()
  assert buckets.refusal(error.value) and not buckets.refusal(KeyError('x'))
  assert not [r for r in caplog.records if r.exc_info]
