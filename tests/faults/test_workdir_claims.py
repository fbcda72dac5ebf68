"""What a workdir holds: nothing before a checkpoint, one run ever after."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import loop
from pixeldit_jax.train.loop import train


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Five classes of four images."""
  folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
  for name in ('daisy', 'dandelion', 'roses', 'sunflowers', 'tulips'):
    (folder / name).mkdir()
    for i in range(4):
      image = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
      image.save(folder / name / f'{i}.png')
  return folder


def small_config(images, steps=2):
  config = get_config()
  make_debug(config)
  config.steps = steps
  config.model.update(width=16, patch_depth=1, num_classes=5)
  config.data.update(source=f'folder:{images}')
  return config


@pytest.fixture(scope='module')
def trained(images, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  train(RunContext.build(small_config(images)), str(workdir))
  return workdir


@pytest.fixture
def run(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / 'run')


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != 'lock'
  }


@pytest.mark.slow
def test_a_refused_first_start_claims_nothing(images, trained, tmp_path):
  """A mistyped init_from; then the corrected command goes on."""
  config = small_config(images, steps=1)
  config.init_from = str(tmp_path / 'mistyped')
  with pytest.raises(UserError, match='has no checkpoint'):
    train(RunContext.build(config), str(tmp_path / 'new'))
  assert list(tmp_path.iterdir()) == []
  config.init_from = str(trained)
  assert int(train(RunContext.build(config), str(tmp_path / 'new')).step) == 1


@pytest.mark.slow
def test_a_start_that_ends_before_its_first_save_claims_nothing(
  images, tmp_path, monkeypatch
):
  config = small_config(images)
  with monkeypatch.context() as patch:
    patch.setattr(loop.TrainLoop, '_save', lambda self, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      train(RunContext.build(config), str(tmp_path))
  assert not (tmp_path / 'config.json').exists()
  config.seed = 5
  assert int(train(RunContext.build(config), str(tmp_path)).step) == 2


@pytest.mark.parametrize(
  'key, value', [('model.width', 32), ('repa.weight', 0.5)]
)
def test_other_shapes_are_refused_and_nothing_is_written(
  run, images, key, value
):
  config = small_config(images, steps=4)
  config.update_from_flattened_dict({key: value})
  config.repa.update(teacher='facebook/dinov2-base', block=1)
  before = content(run)
  with pytest.raises(UserError, match=f'{key} cannot change in a run'):
    loop._check_workdir(config, str(run), None, [key, 'repa.teacher'])
  assert content(run) == before


def test_another_optimizer_is_refused_before_anything_is_written(run, images):
  config = small_config(images, steps=4)
  config.optimizer.name = 'came'
  before = content(run)
  with pytest.raises(UserError, match='opt_state'):
    train(RunContext.build(config), str(run))
  assert content(run) == before


@pytest.mark.slow
def test_renamed_classes_are_refused_with_the_difference(run, images, tmp_path):
  renamed = shutil.copytree(images, tmp_path / 'renamed')
  (renamed / 'daisy').rename(renamed / 'zinnia')
  config = small_config(renamed, steps=3)
  allow = ['data.source']
  before = content(run)
  with pytest.raises(UserError) as error:
    train(RunContext.build(config), str(run), allow_change=allow)
  assert "gone 'daisy'; new 'zinnia'; 5 labels would" in str(error.value)
  assert content(run) == before
  allow.append('classes')
  train(RunContext.build(config), str(run), allow_change=allow)
  config.steps = 4  # it holds the new names now
  train(RunContext.build(config), str(run))


def test_a_run_whose_lock_was_removed_stops_before_it_saves(images, tmp_path):
  config = small_config(images)

  class Remover:
    every = 1

    def __call__(self, step, ema, *rest):
      (tmp_path / 'lock').unlink(missing_ok=True)
      return iter(())

  with pytest.raises(UserError, match='is no longer ours'):
    train(RunContext.build(config), str(tmp_path), [Remover()])
  assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))
