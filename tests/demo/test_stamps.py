"""The folder of stamps: pictures on white squares, with their captions."""

import csv

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.demo.stamps import make_folder


def test_pictures_with_captions_become_squares(tmp_path):
  inside = tmp_path / 'stamps' / 'animals'
  inside.mkdir(parents=True)
  pixels = np.zeros((10, 20, 4), np.uint8)
  pixels[:, :10, 3] = 255  # black on the left, nothing on the right
  for name in ('cat', 'dog', 'silent'):
    Image.fromarray(pixels).save(inside / f'{name}.png')
  (inside / 'cat.txt').write_text('A cat.\nde.utf8=Eine Katze.\n', 'utf-8')
  (inside / 'dog.txt').write_text('', 'utf-8')
  out = tmp_path / 'out'
  assert make_folder(str(out), tmp_path / 'stamps') == 2
  with (out / 'metadata.csv').open(newline='') as file:
    rows = list(csv.reader(file))
  assert rows[1:] == [['animals_cat.png', 'A cat.'], ['animals_dog.png', '']]
  found = np.asarray(Image.open(out / 'animals_cat.png'))
  assert found.shape == (20, 20, 3)
  assert (found[5:15, :10] == 0).all() and (found[:, 10:] == 255).all()
  assert (found[:5] == 255).all() and (found[15:] == 255).all()


def test_no_stamps_are_one_line(tmp_path):
  with pytest.raises(FileNotFoundError, match='apt-get install tuxpaint'):
    make_folder(str(tmp_path / 'out'), tmp_path)
