"""launch/tpu_pod.sh, xpk.sh and slurm.sh, with stand-ins for the clouds."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ARGUMENT = "--config.x=it's a $HOME"  # hard to pass through two shells

# Each stand-in writes down its arguments, one a line.
PYTHON = """#!/bin/sh
case "$1 $2" in
  '-c import sys; print'*) echo 3.12.1; exit ;;
  -c*|'-m pip') exit ;;
esac
printf '%s\\n' "$PWD" "$@" > "$LOG/python"
"""
# Finds every configuration to be wrong.
REFUSING = """#!/bin/sh
[ "$1" = -c ] && exit
echo "$@" > "$LOG/python"
echo 'pixeldit train: data.batch_size=0' >&2
exit 1
"""
# One worker, whose home is $HOME.
GCLOUD = """#!/bin/bash
echo "$@" >> "$LOG/gcloud"
case "$4" in
  describe) [ -n "$SLICE_EXISTS" ] ;;
  scp) cp "$5" "$HOME" ;;
  ssh) for word; do
      case $word in --command=*) cd "$HOME" && exec bash -c "${word#*=}" ;; esac
    done ;;
esac
"""
# Starts the command in the folder that would be in the image.
XPK = """#!/bin/bash
echo "$@" > "$LOG/xpk"
for word; do
  case $word in
    --script-dir=*) cd "${word#*=}" ;;
    --command=*) exec bash -c "${word#*=}" ;;
  esac
done
"""
SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do echo "$1" >> "$LOG/srun"; shift; done
exec "$@"
"""


@pytest.fixture
def checkout(tmp_path):
  """The files that the scripts read, in a folder of their own."""
  root = tmp_path / 'checkout'
  for folder in ('pixeldit_jax', 'configs'):
    (root / folder).mkdir(parents=True)
  shutil.copytree(ROOT / 'launch', root / 'launch')
  for file in ('setup.py', 'pyproject.toml', 'README.md'):
    shutil.copy(ROOT / file, root)
  (root / 'launch/train.py').touch()
  return root


@pytest.fixture
def run(tmp_path):
  """Runs a script where gcloud, xpk and srun are the stand-ins."""
  tools = tmp_path / 'tools'
  for name, text in [('gcloud', GCLOUD), ('xpk', XPK), ('srun', SRUN)]:
    write_script(tools / name, text)
  write_script(tmp_path / 'venv/bin/python', PYTHON)
  for folder in ('home', 'log', 'tmp'):
    (tmp_path / folder).mkdir()
  env = {k: v for k, v in os.environ.items() if not k.startswith('SLURM')}
  env |= {
    'PATH': f'{tools}:{env["PATH"]}',
    'HOME': str(tmp_path / 'home'),
    'LOG': str(tmp_path / 'log'),
    'TMPDIR': str(tmp_path / 'tmp'),
    'PIXELDIT_VENV': str(tmp_path / 'venv'),
    'PIXELDIT_NEEDED_MB': '1',
    'SLICE_EXISTS': '',
  }
  env.pop('PYTHON', None)

  def run(script, *arguments, **variables):
    return subprocess.run(
      ['bash', script, *arguments],
      env=env | variables,
      capture_output=True,
      text=True,
    )

  return run


@pytest.fixture
def log(tmp_path):
  return lambda name: (tmp_path / 'log' / name).read_text()


def write_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)
  return path


def test_tpu_pod_sends_the_code_and_runs_it(checkout, run, log, tmp_path):
  home = tmp_path / 'home/pixeldit_jax'
  stale = home / 'launch/removed_since.py'
  stale.parent.mkdir(parents=True)
  stale.touch()
  script = checkout / 'launch/tpu_pod.sh'
  arguments = ['--name=pod', '--zone=z', 'launch/train.py', ARGUMENT]
  result = run(script, *arguments)
  assert result.returncode == 0, result.stderr
  assert log('python').splitlines() == [
    str(home),
    'launch/train.py',
    ARGUMENT,
  ]
  assert not stale.exists()
  assert 'create' not in log('gcloud')


@pytest.mark.parametrize('script', ['tpu_pod', 'xpk'])
def test_a_configuration_that_cannot_be_makes_no_slice(
  checkout, run, tmp_path, script
):
  (checkout / 'configs/mnist.py').touch()
  write_script(tmp_path / 'venv/bin/python', REFUSING)
  flags = {
    'tpu_pod': ['--name=pod', '--zone=z', '--type=v5litepod-8'],
    'xpk': ['--cluster=c', '--workload=w', '--tpu-type=v5litepod-8'],
  }[script]
  command = ['launch/train.py', '--config=mnist', '--workdir=gs://mine/run']
  done = run(checkout / f'launch/{script}.sh', *flags, *command)
  assert done.returncode == 1
  assert 'data.batch_size=0' in done.stderr + done.stdout
  asked = (tmp_path / 'log/python').read_text().split()
  assert asked == [*command, '--check']
  assert [path.name for path in (tmp_path / 'log').iterdir()] == ['python']


def test_check_trains_nothing(tmp_path):
  command = [sys.executable, ROOT / 'launch/train.py', '--config=mnist:debug']
  command += [f'--workdir={tmp_path}/run', '--check']
  subprocess.run(command, check=True)
  wrong = subprocess.run(
    [*command, '--config.data.batch_size=0'], capture_output=True, text=True
  )
  assert wrong.returncode == 1 and 'data.batch_size' in wrong.stderr
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('exists', ['', 'yes'])
def test_tpu_pod_makes_the_slice_once(checkout, run, log, exists):
  result = run(
    checkout / 'launch/tpu_pod.sh',
    *('--name=pod', '--zone=z', '--project=p', '--type=v5p-128', '--spot'),
    'launch/train.py',
    SLICE_EXISTS=exists,
  )
  assert result.returncode == 0, result.stderr
  created = [line for line in log('gcloud').splitlines() if ' create ' in line]
  assert created == ([] if exists else [
    'compute tpus tpu-vm create pod --accelerator-type=v5p-128 '
    '--version=v2-alpha-tpuv5 --spot --zone=z --project=p'
  ])  # fmt: skip


def test_tpu_pod_runs_one_thing_at_a_time_and_stops(checkout, run, tmp_path):
  script = checkout / 'launch/tpu_pod.sh'
  place = ('--name=pod', '--zone=z')
  assert run(script, *place, 'launch/train.py').returncode == 0
  running = subprocess.Popen(['sleep', '600'])
  try:
    (tmp_path / 'tmp/pixeldit_jax.pid').write_text(str(running.pid))
    result = run(script, *place, 'launch/train.py')
    assert result.returncode == 1, result
    assert '--stop' in result.stderr
    assert run(script, *place, '--stop').returncode == 0
    assert running.wait(timeout=60) == -signal.SIGTERM
  finally:
    running.kill()


def test_tpu_pod_detaches(checkout, run, tmp_path):
  result = run(
    checkout / 'launch/tpu_pod.sh',
    *('--name=pod', '--zone=z', '--detach', 'launch/train.py'),
  )
  assert result.returncode == 0, result.stderr
  assert str(tmp_path / 'home/pixeldit_jax.log') in result.stdout
  assert (tmp_path / 'tmp/pixeldit_jax.pid').exists()


def test_xpk_sends_the_code_and_runs_it(checkout, run, log):
  (checkout / '.venv').mkdir()
  result = run(
    checkout / 'launch/xpk.sh',
    *('--cluster=c', '--workload=w', '--tpu-type=v5litepod-16'),
    *('--num-slices=2', 'launch/train.py', ARGUMENT),
  )
  assert result.returncode == 0, result.stderr
  folder, *command = log('python').splitlines()
  assert command == ['launch/train.py', ARGUMENT]
  assert not (pathlib.Path(folder) / '.venv').exists()
  assert '--num-slices=2 --script-dir=' in log('xpk')


def test_slurm_runs_one_task_per_gpu(checkout, run, log, tmp_path):
  spool = tmp_path / 'spool/slurm_script'  # where sbatch puts the script
  spool.parent.mkdir()
  shutil.copy(checkout / 'launch/slurm.sh', spool)
  result = run(
    spool,
    *('launch/train.py', ARGUMENT),
    SLURM_JOB_ID='7',
    SLURM_SUBMIT_DIR=str(checkout),
  )
  assert result.returncode == 0, result.stderr
  assert log('python').splitlines() == [
    str(checkout),
    'launch/train.py',
    ARGUMENT,
  ]
  assert '--gpu-bind=none' in log('srun')


@pytest.mark.parametrize(
  'script, options, expected',
  [
    ('tpu_pod.sh', ['--name=pod', '--zone=z', '--type=v5p-128'], 'tpu-vm scp'),
    (
      'xpk.sh',
      ['--cluster=c', '--workload=w', '--tpu-type=v5p-128'],
      'xpk workload create',
    ),
    ('slurm.sh', [], 'srun'),
  ],
)
def test_dry_run_only_shows(checkout, run, tmp_path, script, options, expected):
  before = sorted(checkout.rglob('*'))
  result = run(
    checkout / 'launch' / script, *options, '--dry_run', 'launch/train.py'
  )
  assert result.returncode == 0, result.stderr
  assert expected in result.stdout
  assert 'launch/train.py' in result.stdout
  assert sorted(checkout.rglob('*')) == before
  assert not list((tmp_path / 'log').iterdir())
  # What it shows can be typed.
  syntax = subprocess.run(['bash', '-n'], input=result.stdout, text=True)
  assert syntax.returncode == 0


@pytest.mark.parametrize(
  'script, arguments, expected',
  [
    ('tpu_pod.sh', ['launch/train.py'], '--name=NAME and --zone=ZONE'),
    ('tpu_pod.sh', ['--zones=z'], "unknown option '--zones=z'"),
    ('tpu_pod.sh', ['--name=p', '--zone=z', 'no.py'], "'no.py' is not a"),
    ('xpk.sh', ['--cluster=c', 'launch/train.py'], '--workload=... is needed'),
    ('slurm.sh', ['launch/train.py'], 'not in a SLURM job'),
    ('slurm.sh', ['--dry_run'], "'' is not a script"),
    ('run.sh', ['gpu'], "'gpu' is not cpu, cuda or tpu"),
  ],
)
def test_bad_arguments(checkout, run, tmp_path, script, arguments, expected):
  result = run(checkout / 'launch' / script, *arguments)
  assert result.returncode == 1
  assert result.stderr.count('error:') == 1
  assert expected in result.stderr
  assert not list((tmp_path / 'log').iterdir())
