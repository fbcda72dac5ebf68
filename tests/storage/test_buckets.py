"""Buckets are read and written as a disk, or refused in one line."""

import concurrent.futures
import http.server
import sys
import threading

import chex
import numpy as np
import pytest
from etils import epath
from flax import nnx
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.convert.autoencoder import load_autoencoder, to_autoencoder
from pixeldit_jax.convert.files import fetch
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import load_vision, write_dinov2
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.precompute import Computation, precompute
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders.autoencoder import Autoencoder, AutoencoderConfig
from pixeldit_jax.encoders.language_models import open_language_model
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig
from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  OutputError,
  UserError,
)
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.outputs import path_of
from pixeldit_jax.storage import (
  amazon_s3,
  buckets,
  downloads,
  google_cloud,
  patience,
)
from pixeldit_jax.train.checkpoint.folders import folder_of
from pixeldit_jax.train.run.lock import hold

CLIENTS = dict(
  gs=(google_cloud, 'STORAGE_EMULATOR_HOST'), s3=(amazon_s3, 'AWS_ENDPOINT_URL')
)


@pytest.fixture(scope='module', params=['gs', 's3'])
def any_bucket(request, cloud):
  """'gs://prepared', and the same of S3."""
  return cloud(request.param, 'prepared')


@pytest.fixture(scope='module')
def bucket(google_cloud):
  return google_cloud('files')


def upload(bucket, folder, below):
  for path in folder.rglob('*'):
    if path.is_file():
      name = f'{below}/{path.relative_to(folder)}'
      bucket.blob(name).upload_from_filename(path)


def test_a_file_is_read_as_it_was_at_one_moment(any_bucket):
  """Though another process replaces it: `epath` asks for the length before."""
  path, contents = f'{any_bucket}/replaced.json', ['1' * 10, '2' * 1000]
  files.write_text(path, contents[0])
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    written = pool.submit(
      lambda: [files.write_text(path, text) for text in contents * 50]
    )
    while not written.done():
      assert files.read_text(path) in contents
    written.result()
  with pytest.raises(FileNotFoundError):
    files.read_text(f'{any_bucket}/absent.json')


@pytest.fixture
def pictures(tmp_path):
  """Two classes of three pictures."""
  for i in range(6):
    path = tmp_path / 'in' / f'k{i % 2}' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 30), (40 * i, 0, 0)).save(path)
  return tmp_path / 'in'


def test_other_schemes_and_paths_are_one_line():
  buckets.check('/a/disk')
  with pytest.raises(UserError, match='abfs.*is not supported'):
    folder_of('abfs://b/x')
  for scheme in CLIENTS:
    with pytest.raises(UserError, match=f'expected {scheme}://bucket/name'):
      buckets.check(f'{scheme}://')


def test_a_misspelt_bucket_is_refused_and_never_made(any_bucket):
  """mkdir of epath would make it, in s3://."""
  scheme, _, name = any_bucket.partition('://')
  wrong = f'{scheme}://{name}-misspelt/x'
  buckets.check(f'{any_bucket}/x')
  for work in (buckets.check, folder_of, hold, downloads.fetch, path_of):
    with pytest.raises(MissingFileError, match=f'no bucket {wrong[:-2]}'):
      with work(wrong):
        pass
  buckets._check.cache_clear()
  with pytest.raises(MissingFileError):
    buckets.check(wrong)
  with pytest.raises(OutputError, match='misspelt/x could not be written'):
    files.write_json(wrong, [1])


@pytest.mark.parametrize('package', ['gcsfs', 's3fs', 'boto3'])
def test_without_the_package_it_is_one_line(monkeypatch, package):
  scheme, extra = ('gs', 'gcs') if package == 'gcsfs' else ('s3', 's3')
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(MissingPackageError, match=rf'pixeldit_jax\[{extra}\]'):
    buckets.check(f'{scheme}://without-{package}/x')


@pytest.mark.parametrize('scheme', CLIENTS)
@pytest.mark.parametrize(
  'status, message', [(403, 'may not be used'), (503, 'does not answer')]
)
def test_a_bucket_that_refuses_is_one_line(
  monkeypatch, scheme, status, message
):
  class Refuse(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_error(status)

    do_HEAD = do_GET

    def log_message(self, *args):
      pass

  server = http.server.HTTPServer(('127.0.0.1', 0), Refuse)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    refused(monkeypatch, scheme, server.server_port, f'{status}', message)
  finally:
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('scheme', CLIENTS)
def test_a_server_that_is_absent_is_one_line(monkeypatch, scheme):
  refused(monkeypatch, scheme, 9, 'absent', 'does not answer')


def refused(monkeypatch, scheme, port, name, message):
  client, variable = CLIENTS[scheme]
  monkeypatch.setenv(variable, f'http://127.0.0.1:{port}')
  monkeypatch.setattr(patience, 'LIMIT', 0.5)
  monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'testing')
  monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'testing')
  client._client.cache_clear()
  try:
    with pytest.raises(UserError, match=message) as error:
      buckets.check(f'{scheme}://{name}/x')
    assert '\n' not in str(error.value)
  finally:
    client._client.cache_clear()


def test_what_another_process_wrote_is_seen(any_bucket):
  """fsspec would keep the listing, and cut a file that grew."""
  buckets.check(any_bucket)
  folder = epath.Path(any_bucket) / 'seen'
  files.write_json(folder / 'a.json', {'x': 1})
  assert [path.name for path in folder.iterdir()] == ['a.json']
  buckets.put(folder / 'b', b'by another client than that of epath')
  buckets.put(folder / 'a.json', b'{"x": 123456789}')
  assert sorted(path.name for path in folder.iterdir()) == ['a.json', 'b']
  assert (folder / 'b').exists()
  assert files.read_json(folder / 'a.json') == {'x': 123456789}
  assert (folder / 'a.json').read_bytes() == b'{"x": 123456789}'
  assert len(buckets.below(folder)) == 2  # nothing temporary


def test_a_write_that_is_refused_says_so(any_bucket):
  buckets.check(any_bucket)
  path = f'{any_bucket}/held'
  first, second = buckets.Object(path), buckets.Object(path)
  assert first.replace('of the first')
  assert not second.replace('of the second')
  assert second.text == 'of the first' == buckets.Object(path).text
  assert buckets.put(path, b'new', '') is None
  assert second.replace('taken over') and not first.replace('again')


def test_a_listing_has_more_than_a_page(any_bucket, monkeypatch):
  buckets.check(any_bucket)
  monkeypatch.setattr(google_cloud, '_PAGE', 2)
  monkeypatch.setattr(amazon_s3, '_PAGE', 2)
  for i in range(5):
    buckets.put(f'{any_bucket}/pages/{i}', b'x')
  found = [one.name for one in buckets.objects(f'{any_bucket}/pages/')]
  assert found == [f'pages/{i}' for i in range(5)]


def test_pictures_and_shards_are_read_from_a_bucket(bucket, pictures, cache):
  upload(bucket, pictures, 'pictures')
  source = open_source('folder:gs://files/pictures')
  assert len(source) == 6 and source.class_names == ('k0', 'k1')
  out = pictures.parent / 'out'
  settings = PrepareSettings('folder:gs://files/pictures', 16)
  prepare.prepare(settings, str(out), num_processes=1)
  upload(bucket, out, 'shards')
  for spec in ('shards:gs://files/shards', 'gs://files/shards'):
    there, here = open_source(spec), open_source(f'shards:{out}')
    assert [there[i] for i in range(6)] == [here[i] for i in range(6)]
  with pytest.raises(MissingFileError, match='no gs://files/nothing'):
    open_source('folder:gs://files/nothing')


def test_shards_are_written_to_a_bucket_as_to_a_disk(
  any_bucket, pictures, tmp_path, cache
):
  settings = PrepareSettings(f'folder:{pictures}', 16, shard_size=2)
  here, there = str(tmp_path / 'out'), f'{any_bucket}/out'
  prepare.prepare(settings, here, num_processes=1)
  (epath.Path(there) / 'mine.txt').write_text('of the user')
  with pytest.raises(UserError, match='holds other files'):
    prepare.prepare(settings, there, num_processes=1)
  (epath.Path(there) / 'mine.txt').unlink()

  def stopped(task, indices):
    for index in indices[:2]:
      yield index, task.write(index)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(settings, there, runner=stopped)
  assert not (epath.Path(there) / 'manifest.json').exists()
  prepare.prepare(settings, there, num_processes=1)
  prepare.prepare(settings, there, num_processes=1)  # checks them
  double = Computation(
    name='double',
    compute=lambda examples: np.array([[e['label'] * 2.0] for e in examples]),
    meta={},
    batch_size=2,
  )
  for out in (here, there):
    precompute(out, double)
    assert precompute(out, double)['examples'] == 6
  same = {path.name: path.read_bytes() for path in epath.Path(there).iterdir()}
  assert same == {
    path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()
  }
  assert len(same) == 3 + 3 + 3
  source = open_source(f'shards:{there}', ['double'])
  assert [source[i]['arrays']['double'] for i in range(6)] == [
    2 * source[i]['label'] for i in range(6)
  ]


def test_files_of_a_pattern_are_fetched_and_again_when_they_change(
  bucket, cache
):
  for i in range(12):
    bucket.blob(f'tars/{i:02d}.tar').upload_from_string(f'{i}')
  downloads.fetch('gs://files/tars/0[0-3].tar')
  kept = sorted(cache.rglob('*.tar'))
  assert [path.name for path in kept] == [f'{i:02d}.tar' for i in range(4)]
  first = fetch('gs://files/tars/07.tar')
  assert first.read_text() == '7'
  before = first.stat()
  assert fetch('gs://files/tars/07.tar').stat().st_ino == before.st_ino
  bucket.blob('tars/07.tar').upload_from_string('other')
  assert fetch('gs://files/tars/07.tar').read_text() == 'other'
  bucket.blob('tars/01.tar').delete()
  downloads.fetch('gs://files/tars/*.tar')
  assert len(list(cache.rglob('*.tar'))) == 11
  with pytest.raises(MissingFileError, match='no gs://files/tars/0'):
    fetch('gs://files/tars/0')


def test_networks_are_read_from_a_bucket(any_bucket, tmp_path, cache):
  model = Autoencoder(
    AutoencoderConfig(widths=(32, 32), blocks=1), rngs=nnx.Rngs(0)
  )
  file = tmp_path / 'diffusion_pytorch_model.safetensors'
  write_safetensors(file, to_autoencoder(model))
  config = VisionConfig(width=64, depth=1, heads=1, grid=2, dtype='float32')
  teacher = DINOv2(config, rngs=nnx.Rngs(0))
  write_dinov2(tmp_path / 'teacher.safetensors', config, weights_of(teacher))
  folder = f'{any_bucket}/networks'
  buckets.check(folder)
  for path in tmp_path.glob('*.safetensors'):
    buckets.put(f'{folder}/{path.name}', path)
  there, here = load_autoencoder(folder), load_autoencoder(tmp_path)
  assert nnx.to_pure_dict(nnx.state(there)).keys()
  chex.assert_trees_all_equal(
    nnx.to_pure_dict(nnx.state(there)), nnx.to_pure_dict(nnx.state(here))
  )
  found = [
    load_vision(f'{place}/teacher.safetensors')[1]
    for place in (folder, tmp_path)
  ]
  chex.assert_trees_all_equal(*found)
  with pytest.raises(UserError, match='cannot be loaded'):
    open_language_model(folder, batch_size=2)
