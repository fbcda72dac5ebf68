#!/usr/bin/env bash
# gcsfs 2026.10.1, fsspec 2026.9.0, etils 1.15.0, with servers on 127.0.0.1.
#
# Expected: is_dir() of a folder in gs:// says whether it is there, and raises
# where the bucket refuses to say (403), or its server is gone, as exists(),
# iterdir() and the same call on s3:// do.
#
# What happens: it is False, with no error or warning, as it takes any OSError
# for "absent": gcsfs raises a plain OSError for 403, and what aiohttp raises
# when a connection fails is an OSError too. A program that continues "if the
# folder of checkpoints is there, else from the start" starts anew where a role
# was not granted yet, or the network was gone for a moment.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  gcsfs==2026.10.1 fsspec==2026.9.0 'etils[epath]==1.15.0'
export GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false

cat >"$folder/try.py" <<'PYTHON'
import http.server
import logging
import os
import sys
import threading

BODY = b'{"error": {"code": 403, "message": "no access"}}'


class Refuse(http.server.BaseHTTPRequestHandler):

  def do_GET(self):
    self.send_response(403)
    self.send_header('Content-Length', str(len(BODY)))
    self.end_headers()
    self.wfile.write(BODY)

  def log_message(self, *args):
    pass


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Refuse)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ['STORAGE_EMULATOR_HOST'] = f'http://127.0.0.1:{server.server_port}'
logging.getLogger('gcsfs').setLevel(logging.CRITICAL)

import gcsfs
from etils import epath

path = epath.Path('gs://bucket/run/checkpoints')


def said(call):
  try:
    return call()
  except Exception as error:
    return f'{type(error).__name__}: {error}'.splitlines()[0]


print('gcsfs', gcsfs.__version__)
calls = dict(is_dir=path.is_dir, exists=path.exists, iterdir=path.iterdir)
refused = {
  name: said(lambda: list(call()) if name == 'iterdir' else call())
  for name, call in calls.items()
}
print('403:', refused)
server.shutdown()
server.server_close()
gone = said(path.is_dir)
print('the server is gone: is_dir', gone)
raised = all(
  str(refused[name]).startswith('OSError: Forbidden')
  for name in ('exists', 'iterdir')
)
if refused['is_dir'] is not False or gone is not False or not raised:
  sys.exit('changed: is_dir no longer takes a refusal for an absent folder')
os._exit(0)
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# 403: {'is_dir': False, 'exists': 'OSError: Forbidden: b/bucket/o',
#   'iterdir': 'OSError: Forbidden: b/bucket/o'}
# the server is gone: is_dir False
