"""A bucket that fails for good ends a run that saves: soon, and in one line."""

import os
import pathlib
import subprocess
import sys
import time
import uuid

import pytest
from fault_proxy import Proxy

LAUNCH = pathlib.Path(__file__).parents[3] / 'launch'
ADDRESSES = dict(
  gs=('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL'),
  s3=('AWS_ENDPOINT_URL',),
)
FLAGS = (
  '--config=mnist:debug',
  '--config.steps=4',
  '--config.checkpoint.every=2',
)
SECONDS = 15 + 25  # what is promised, and what a busy machine takes to end


@pytest.mark.slow
@pytest.mark.parametrize('scheme, fault', [('gs', 503), ('s3', 403)])
def test_a_save_that_fails_for_good_is_one_line(cloud, scheme, fault):
  url = cloud(scheme, f'outage-{uuid.uuid4().hex}')
  names, began = ADDRESSES[scheme], []

  def fail_in_save(method, path):
    if not began and method in ('PUT', 'POST') and '/2/' in path:
      began.append(time.monotonic())
    return fault if began else None

  with Proxy(os.environ[names[0]].removeprefix('http://')) as proxy:
    proxy.fault = fail_in_save
    process = subprocess.run(
      [sys.executable, LAUNCH / 'train.py', *FLAGS, f'--workdir={url}/run'],
      env=dict(os.environ, **dict.fromkeys(names, proxy.url)),
      capture_output=True,
      text=True,
    )
  assert process.returncode == 1 and began
  assert time.monotonic() < began[0] + SECONDS
  (line,) = process.stderr.splitlines()
  assert line.startswith('train: ') and 'refused or did not answer' in line
