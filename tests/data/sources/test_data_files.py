"""Paths, braces, splits, and the hub by a server that speaks as it does."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixeldit_jax.data.sources import data_files
from pixeldit_jax.errors import UserError


@pytest.mark.parametrize(
  'pattern, want',
  [
    ('a', ['a']),
    ('x{08..11}', ['x08', 'x09', 'x10', 'x11']),
    ('x{8..10}', ['x8', 'x9', 'x10']),
    ('{a,b}{1..2}', ['a1', 'a2', 'b1', 'b2']),
    ('{2..0}', ['2', '1', '0']),
  ],
)
def test_braces_expand_as_in_a_shell(pattern, want):
  assert data_files.expand_braces(pattern) == want


def test_other_braces_are_refused():
  with pytest.raises(
    UserError, match='expected {00000..00009} or {a,b}, got {x}'
  ):
    data_files.expand_braces('a{x}')


@pytest.mark.parametrize(
  'name, split',
  [
    ('data/train-00000-of-00294.parquet', 'train'),
    ('validation/0000.parquet', 'validation'),
    ('imagenet-val-000.tar', 'validation'),
    ('train/test.parquet', 'test'),
    ('strain-0.tar', ''),
    ('TEST_01.tar', 'test'),
    ('00000.tar', ''),
  ],
)
def test_the_split_is_a_word_of_the_name(name, split):
  assert data_files.split_of(name) == split


def test_options_are_behind_the_last_question_mark():
  parse = data_files.parse
  assert parse('/a?b.tar', ('x',)) == ('/a?b.tar', {})
  assert parse('/a?b.tar?x=1&y=', ('x', 'y')) == (
    '/a?b.tar', {'x': '1', 'y': ''},
  )  # fmt: skip
  with pytest.raises(UserError, match='unknown option z; expected x=...'):
    parse('/a?z=1', ('x',))


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path):
  for name in ('b/1.tar', 'a/2.tar', '.git/3.tar', 'a/.4.tar', 'a/5.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('')
  found = data_files.find(str(tmp_path), ('.tar',))
  assert found == [f'{tmp_path}/a/2.tar', f'{tmp_path}/b/1.tar']
  assert data_files.find(f'{tmp_path}/**/*.txt', ('.tar',)) == [
    f'{tmp_path}/a/5.txt'
  ]
  with pytest.raises(FileNotFoundError, match='no file matches'):
    data_files.find(f'{tmp_path}/*.rar', ('.tar',))


class Hub(http.server.BaseHTTPRequestHandler):
  """The part of the hub's interface that reading a data set takes."""

  commit = 'c' * 40
  files: dict[str, bytes] = {}
  fetched: list[str] = []

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = self.path.partition('?')[0].replace('%2F', '/')
    name = 'datasets/someone/pictures'
    siblings = [{'rfilename': file} for file in sorted(self.files)]
    if path.startswith(f'/api/{name}/revision/') or path == f'/api/{name}':
      about = {'_id': '1', 'id': 'someone/pictures', 'sha': self.commit}
      return self.answer(json.dumps(about | {'siblings': siblings}).encode())
    if path.startswith(f'/api/{name}/tree/'):
      listed = [
        {'type': 'file', 'path': file, 'size': len(data), 'oid': '0' * 40}
        for file, data in sorted(self.files.items())
      ]
      return self.answer(json.dumps(listed).encode())
    start = f'/{name}/resolve/{self.commit}/'
    if path.startswith(start) and path.removeprefix(start) in self.files:
      file = path.removeprefix(start)
      if self.command == 'GET':
        self.fetched.append(file)
      return self.answer(self.files[file], 'application/octet-stream')
    self.send_response(404)
    self.send_header('X-Error-Code', 'RepoNotFound')
    self.send_header('Content-Length', '0')
    self.end_headers()

  def answer(self, data, kind='application/json'):
    self.send_response(200)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(data)))
    self.send_header('ETag', f'"{hashlib.sha256(data).hexdigest()}"')
    self.send_header('X-Repo-Commit', self.commit)
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(data)


@pytest.fixture
def hub(tmp_path, encode):
  """f(*specs) -> the labels or error of each, read in a process of its own.

  The address of the hub is read once, when its package is imported.
  """
  pytest.importorskip('huggingface_hub')
  files = {'README.md': b'x'}
  for k, split in enumerate(('train', 'train', 'test')):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({'image': [encode(k)], 'label': [k]}), sink)
    files[f'data/{split}-0000{k}.parquet'] = sink.getvalue().to_pybytes()
  handler = type('Served', (Hub,), {'files': files, 'fetched': []})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  code = (
    'import json, sys\n'
    'from pixeldit_jax.data.sources.open_source import open_source\n'
    'from pixeldit_jax.errors import UserError\n'
    'def read(spec):\n'
    '  try:\n'
    '    source = open_source(spec)\n'
    '    return [source[i]["label"] for i in range(len(source))]\n'
    '  except UserError as error:\n'
    '    return str(error)\n'
    'print(json.dumps([read(spec) for spec in sys.argv[1:]]))'
  )

  def run(*specs, **more):
    environment = {
      'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
      'HF_HOME': str(tmp_path / 'hub'),
    }
    done = subprocess.run(
      [sys.executable, '-c', code, *specs],
      env=os.environ | environment | more,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

  run.served = handler
  yield run
  server.shutdown()
  server.server_close()


def test_data_sets_of_the_hub(hub):
  start = 'parquet:hf://datasets/someone/pictures'
  found = hub(
    'hf://datasets/someone/pictures',
    f'{start}/data/t*-00002.parquet',
    f'{start}@{hub.served.commit}/data?split=test',
    f'{start}/none',
    'parquet:hf://datasets/someone/else',
    'parquet:hf://datasets/pictures',
  )
  assert found[:3] == [[0, 1], [2], [2]]
  # Each file once, and none that is not asked for.
  names = [f'data/{name}.parquet' for name in
           ('test-00002', 'train-00000', 'train-00001')]  # fmt: skip
  assert sorted(hub.served.fetched) == names
  assert re.search('no file of .*holds README.md', found[3])
  assert re.search('someone/else could not be fetched .*Repository', found[4])
  assert 'expected hf://datasets/owner/name' in found[5]
  assert not any('\n' in error for error in found[3:])
  # Without a network, what is kept serves.
  assert hub(start, HF_HUB_OFFLINE='1') == [[0, 1]]


def test_glob_rules():
  def matches(pattern, name):
    return bool(re.fullmatch(data_files._glob_rule(pattern), name))

  assert matches('data/*.parquet', 'data/a.parquet')
  assert not matches('data/*.parquet', 'data/b/a.parquet')
  assert matches('**/*.parquet', 'data/b/a.parquet')
  assert matches('a[01]?.x', 'a1z.x') and not matches('a[01]?.x', 'a2z.x')
