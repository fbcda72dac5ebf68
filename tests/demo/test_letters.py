"""Letters of many fonts, and the classifier that knows them."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.demo import letters
from pixeldit_jax.errors import UserError


def test_a_folder_has_the_letters_that_are_drawn(tmp_path):
  letters.make_folder(str(tmp_path), each=3)
  images, labels = letters.draw_letters(each=3)
  assert sorted(p.name for p in tmp_path.iterdir()) == list(letters.LETTERS)
  assert labels.tolist() == np.repeat(range(4), 3).tolist()
  for image, path in zip(images, sorted(tmp_path.rglob('*.png'))):
    np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
    rows, columns = np.nonzero(image)
    assert 10 < np.ptp(rows) <= 20 and np.ptp(columns) <= 20
  with pytest.raises(UserError, match='not empty'):
    letters.make_folder(str(tmp_path))


@pytest.mark.slow
def test_letters_it_never_saw_are_known():
  images, labels = letters.draw_letters(each=letters.EACH + 20)
  new = np.arange(len(labels)) % (letters.EACH + 20) >= letters.EACH
  shown = letters.predict(images[new][..., None])
  assert (shown == labels[new]).mean() > 0.95
