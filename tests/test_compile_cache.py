"""Compiled programs are kept, for this kind of machine, up to a bound."""

import os
import subprocess
import sys

import jax
import pytest

from pixeldit_jax import compile_cache

PROGRAM = """
import logging, sys
import jax, jax.numpy as jnp
from pixeldit_jax import compile_cache
compile_cache._SHORTEST = 0
logging.basicConfig(level=logging.DEBUG)
folder = compile_cache.enable()
assert jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).shape == (8, 8)
print(folder)
"""


def start(cache, **environment):
  """A process of its own, as every command is one."""
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    capture_output=True,
    text=True,
    check=True,
    env={
      **{k: v for k, v in os.environ.items() if 'COMPILATION_CACHE' not in k},
      'XDG_CACHE_HOME': str(cache),
      **environment,
    },
  )
  return done.stdout.strip(), done.stderr


def test_a_second_process_does_not_compile_again(tmp_path):
  folder, first = start(tmp_path)
  assert folder.startswith(str(tmp_path)) and jax.__version__ in folder
  programs = sorted(os.listdir(folder))
  assert any(name.endswith('-cache') for name in programs)
  again, second = start(tmp_path)
  assert again == folder and sorted(os.listdir(folder)) == programs
  hit = 'Persistent compilation cache hit'
  assert hit in second and hit not in first
  assert start(tmp_path, JAX_ENABLE_COMPILATION_CACHE='false')[0] == 'None'


@pytest.fixture
def no_folder_chosen():
  chosen = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', chosen)


def test_a_folder_of_the_user_is_left_alone():
  chosen = jax.config.jax_compilation_cache_dir  # by conftest
  assert chosen and compile_cache.enable() is None
  assert jax.config.jax_compilation_cache_dir == chosen


def test_where_nothing_can_be_written_nothing_is_kept(
  tmp_path, monkeypatch, no_folder_chosen
):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert compile_cache.enable() is None
  assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_of_any_version_make_room(tmp_path):
  for age, name in enumerate(('jax-2/new-cache', 'jax-1/b-cache', 'jax-1/old')):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (1e9 - age, 1e9 - age))
  compile_cache.remove_oldest(tmp_path, 250)
  assert (tmp_path / 'jax-1' / 'b-cache').exists()
  compile_cache.remove_oldest(tmp_path, 150)
  assert (tmp_path / 'jax-2' / 'new-cache').exists()
  assert not (tmp_path / 'jax-1' / 'b-cache').exists()
  assert (tmp_path / 'jax-1' / 'old').exists()  # no program of ours
