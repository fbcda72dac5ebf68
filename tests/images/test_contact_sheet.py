"""The sheet shows each image, of any shape, in its cell."""

import numpy as np

from pixeldit_jax.images import contact_sheet


def test_every_image_is_on_the_sheet():
  colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
  shapes = [(4, 4), (400, 100), (64, 128)]
  images = [
    np.full((*shape, 3), colour, np.uint8)
    for shape, colour in zip(shapes, colours)
  ]
  sheet = np.asarray(
    contact_sheet.draw(images, ['one', 'a title ' * 20, ''], 2, cell=128)
  )
  assert sheet.shape[1] < 300 and sheet.shape[0] < 320
  areas = [(sheet == colour).all(-1).sum() for colour in colours]
  assert areas == [128 * 128, 128 * 32, 128 * 64]


def test_long_titles_are_broken_between_words():
  images = [np.zeros((4, 4, 3), np.uint8)] * 2
  titles = ['red seven', 'red seven ' * 9]

  def ink(lines):
    sheet = np.asarray(contact_sheet.draw(images, titles, 2, 64, lines))
    below = (sheet[68:] < 128).any(-1)
    return below[:, :66].sum(), below[:, 68:].sum(), len(below)

  (short, cut, _), (same, whole, _) = ink(1), ink(3)
  assert short == same > 0
  assert whole > 2 * cut


def test_each_class_has_a_labelled_row():
  images = np.zeros((5, 48, 48, 3), np.uint8)
  images[[1, 4]] = 90
  labels = np.array([0, 2, 0, 0, 2])
  names = ['cat', 'none', 'dog']
  sheet = contact_sheet.draw_classes(images, labels, names, columns=2)
  assert sheet.shape[0] == 2 * 98 + 2  # two rows, of the two classes
  cells = sheet[:, -(2 * 98 + 2) :]
  assert (cells[2:98, 2:98] == 0).all() and (cells[2:98, 100:196] == 0).all()
  assert (cells[100:196, 2:98] == 90).all()
  beside = sheet[:, : -(2 * 98 + 2)]
  assert (beside[:98] < 128).any() and (beside[98:] < 128).any()
  assert not (beside[:98] == beside[98 : 2 * 98]).all()
