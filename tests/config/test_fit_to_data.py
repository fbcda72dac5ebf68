"""What is chosen for a folder of pictures, and what is said of it."""

import logging

import numpy as np
import pytest
from PIL import Image
from pixeldit_jax.configs import photos

from pixeldit_jax.config import validate
from pixeldit_jax.config.fit_to_data import fit_to_data, specification
from pixeldit_jax.encoders import language_models
from pixeldit_jax.errors import UserError


def draw(path, count, size=(70, 90)):
  path.mkdir(parents=True, exist_ok=True)
  for i in range(count):
    pixels = np.full((*size, 3), i % 256, np.uint8)
    Image.fromarray(pixels).save(path / f'{i}.png')


def fitted(folder, **given):
  given = {name.replace('__', '.', 1): value for name, value in given.items()}
  config = photos.get_config()
  config.update_from_flattened_dict(given | {'data.source': str(folder)})
  fit_to_data(config, {*given, 'data.source'})
  validate(config)
  return config


def test_folders_are_classes(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  for name in ('cat', 'dog', 'fox'):
    draw(tmp_path / name, 100)
  config = fitted(tmp_path)
  assert config.data.source == f'folder:{tmp_path}'
  assert config.model.num_classes == 3 and config.data.resolution == 64
  assert config.data.held_out == 32 and config.fit_minutes == 0
  assert config.steps >= 200 and config.eval.held_out_every * 10 <= config.steps
  assert '300 pictures with 3 classes' in caplog.text
  assert '--config.data.resolution=64' in caplog.text


def test_a_flag_that_is_given_stays(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  draw(tmp_path, 20)
  config = fitted(tmp_path, model__width=64, data__resolution=32, steps=7)
  assert (config.model.width, config.data.resolution) == (64, 32)
  assert config.steps == 7 and config.data.source == f'images:{tmp_path}'
  assert config.model.num_classes == config.data.held_out == 0
  assert '--config.model.width' not in caplog.text
  assert '20 pictures are few' in caplog.text


def test_small_pictures_and_broken_ones_are_told(tmp_path, caplog):
  draw(tmp_path, 5, (20, 30))
  (tmp_path / 'x.jpg').write_bytes(b'no picture')
  config = fitted(tmp_path)
  assert config.data.resolution == 32
  assert '100% are smaller than 32 pixels: enlarged' in caplog.text
  assert '1 pictures cannot be read' in caplog.text


def test_the_layout_decides_what_a_bare_folder_is(tmp_path):
  draw(tmp_path / 'a', 1)
  assert specification(str(tmp_path)) == f'images:{tmp_path}'
  draw(tmp_path / 'b', 1)
  assert specification(str(tmp_path)) == f'folder:{tmp_path}'
  (tmp_path / 'a' / '0.txt').write_text('a grey picture')
  assert specification(str(tmp_path)) == f'images:{tmp_path}'
  assert specification('digits') == 'digits'


def test_captions_are_read_while_training(tmp_path, caplog):
  draw(tmp_path, 240)
  for i in range(0, 240, 2):
    (tmp_path / f'{i}.txt').write_text('a grey picture of nothing at all')
  config = fitted(tmp_path)
  if language_models.minilm_is_installed():
    assert config.data.encode_texts and config.model.text_width == 384
    assert config.model.text_tokens == 16
    assert '50% of 240 pictures looked at have no caption' in caplog.text
  else:
    assert not config.model.text_width
    assert 'There are captions, which are not used' in caplog.text
  assert config.data.held_out >= config.data.batch_size
  assert config.checkpoint.best == 'held_out_loss' and config.eval.patience


def test_named_folders_are_classes_though_there_are_captions(tmp_path, caplog):
  for name in ('a', 'b'):
    draw(tmp_path / name, 20)
  (tmp_path / 'a' / '0.txt').write_text('a grey picture')
  config = fitted(f'folder:{tmp_path}')
  assert config.model.num_classes == 2 and not config.model.text_width
  assert 'not used: the folders are the classes' in caplog.text


def test_nothing_to_fit_to_is_one_line(tmp_path):
  with pytest.raises(UserError, match='data.source=FOLDER'):
    fit_to_data(photos.get_config(), set())
  (tmp_path / 'x.jpg').write_bytes(b'no picture')
  with pytest.raises(UserError, match='none of 1 pictures can be read'):
    fitted(tmp_path)
