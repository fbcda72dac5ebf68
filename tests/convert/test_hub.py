"""Weights and their card go to a hub on 127.0.0.1, and are read back from it.

The client is the real one. Its newer protocol of chunks (Xet) is switched off,
which leaves Git LFS, the other one that it speaks.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from pixeldit_jax.convert.hub import create_repository

ROOT = pathlib.Path(__file__).parents[2]
COMMIT = '0123456789abcdef0123456789abcdef01234567'
TOKEN = 'hf_of_this_test'
READ = """
import sys
from pixeldit_jax.convert.files import read_weights
for path in sys.argv[1:]:
  print(len(read_weights(path)))
"""


class Hub(http.server.BaseHTTPRequestHandler):
  """As much of the hub as an upload and a download of models ask for."""

  server: 'http.server.ThreadingHTTPServer'

  def do_POST(self):  # noqa: N802
    body = self.rfile.read(int(self.headers['Content-Length']))
    if self.headers.get('Authorization') != f'Bearer {TOKEN}':
      self.answer(401, dict(error='Invalid username or password.'))
    elif self.path == '/api/repos/create':
      asked = json.loads(body)
      owner = asked.get('organization') or 'me'
      self.server.made.append(asked)
      self.answer(200, dict(url=f'{self.server.url}/{owner}/{asked["name"]}'))
    elif self.path == '/api/validate-yaml':  # the head of the card
      self.answer(200, dict(errors=[], warnings=[]))
    elif '/preupload/' in self.path:
      files = [
        dict(
          path=file['path'],
          uploadMode='lfs'
          if file['path'].endswith('.safetensors')
          else 'regular',
          shouldIgnore=False,
        )
        for file in json.loads(body)['files']
      ]
      self.answer(200, dict(files=files))
    elif self.path.endswith('/info/lfs/objects/batch'):
      objects = [
        dict(
          found,
          actions=dict(
            upload=dict(href=f'{self.server.url}/lfs/{found["oid"]}')
          ),
        )
        for found in json.loads(body)['objects']
      ]
      self.answer(200, dict(transfer='basic', objects=objects))
    elif '/commit/' in self.path:
      self.commit([json.loads(line) for line in body.splitlines()])
    else:
      self.answer(404, dict(error=f'no {self.path}'))

  def commit(self, lines):
    for line in lines:
      value = line['value']
      if line['key'] == 'file':
        self.server.files[value['path']] = base64.b64decode(value['content'])
      elif line['key'] == 'lfsFile':
        self.server.files[value['path']] = self.server.lfs[value['oid']]
      else:
        self.server.messages.append(value['summary'])
    url = f'{self.server.url}/me/mine/commit/{COMMIT}'
    self.answer(200, dict(success=True, commitUrl=url, commitOid=COMMIT))

  def do_PUT(self):  # noqa: N802
    body = self.rfile.read(int(self.headers['Content-Length']))
    oid = self.path.rpartition('/')[2]
    assert hashlib.sha256(body).hexdigest() == oid
    self.server.lfs[oid] = body
    self.answer(200, {})

  def do_GET(self):  # noqa: N802
    match = re.fullmatch(r'/me/mine/resolve/\w+/(.*)', self.path)
    data = self.server.files.get(match[1]) if match else None
    if data is None:
      self.answer(404, dict(error=f'no {self.path}'))
      return
    self.send_response(200)
    self.send_header('X-Repo-Commit', COMMIT)
    self.send_header('ETag', f'"{hashlib.sha256(data).hexdigest()}"')
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(data)

  do_HEAD = do_GET

  def answer(self, status, value):
    body = json.dumps(value).encode()
    self.send_response(status)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, format, *args):
    """Says nothing."""


@pytest.fixture
def hub():
  pytest.importorskip('huggingface_hub')
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.url = f'http://127.0.0.1:{server.server_port}'
  server.files, server.lfs, server.made, server.messages = {}, {}, [], []
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.fixture
def run_python(hub, tmp_path):
  """f(*arguments) runs Python, whose hub is the one of the test."""
  environment = os.environ | dict(
    HF_ENDPOINT=hub.url,
    HF_HOME=str(tmp_path / 'hub'),
    HF_TOKEN=TOKEN,
    HF_HUB_DISABLE_XET='1',
    NO_PROXY='127.0.0.1',
  )

  def run(*arguments, **changed):
    return subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=ROOT,
      env=environment | changed,
      capture_output=True,
      text=True,
    )

  return run


@pytest.mark.slow
def test_a_run_is_pushed_with_its_card_and_read_back(
  tiny_run, tmp_path, hub, run_python
):
  out = tmp_path / 'export' / 'mine.safetensors'
  out.parent.mkdir()
  flags = f'--workdir={tiny_run[1].workdir}', f'--out={out}'
  refused = run_python(
    'launch/convert.py', *flags, '--push=hf://me/mine', HF_TOKEN='wrong'
  )
  assert refused.returncode == 1
  assert 'hf://me/mine does not take' in refused.stderr.splitlines()[-1]
  assert 'hf auth login' in refused.stderr and not out.exists()

  done = run_python('launch/convert.py', *flags, '--push=hf://me/mine')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1].endswith(f'/me/mine/commit/{COMMIT}')
  assert [asked['name'] for asked in hub.made] == ['mine']
  assert len(hub.messages) == 1 and 'step' in hub.messages[0]
  assert {'mine.safetensors', 'README.md'} <= set(hub.files)
  for name, data in hub.files.items():
    assert data == (out.parent / name).read_bytes()
  card = hub.files['README.md'].decode()
  assert card.startswith('---\nlibrary_name: pixeldit_jax\n')
  assert "pd.load('hf://me/mine/mine.safetensors')" in card
  back = run_python('-c', READ, 'hf://me/mine/mine.safetensors', out)
  assert back.returncode == 0, back.stderr
  counts = back.stdout.split()
  assert counts[0] == counts[1] and int(counts[0]) > 20

  again = run_python(
    'launch/convert.py', *flags, '--push=hf://me/mine', '--overwrite'
  )
  assert again.returncode == 0 and len(hub.messages) == 2, again.stderr


@pytest.mark.parametrize(
  'address', ['hf://mine', 'me/mine', 'hf://me/mine/file', 'hf:///']
)
def test_other_addresses_are_refused(address):
  with pytest.raises(ValueError, match='expected hf://user/name'):
    create_repository(address)
