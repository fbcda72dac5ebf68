"""Letters in many fonts: four classes that the network of the digits never saw.

  python -m pixeldit_jax.demo.letters FOLDER
  python -m pixeldit_jax.demo.letters SAMPLES.npz

The first makes a folder for `data.source=folder:FOLDER`: 28 x 28 pixels, white
on black as the digits are, turned, slanted, of any thickness, by 21 fonts that
come with matplotlib. The second says how many samples of a run on that folder
show the letter that was asked for, by a support vector machine, which names
all of 400 letters that it never saw.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixeldit_jax.data.sources.mnist_digits import SIDE
from pixeldit_jax.demo.digit_classifier import GAMMA, C, grey_pixels
from pixeldit_jax.errors import UserError
from pixeldit_jax.metrics.class_agreement import class_agreement
from pixeldit_jax.typing import Int, UInt8

LETTERS = 'AFKR'
EACH = 500  # pictures of a letter
_FINE = 4  # times the side, before they are reduced
# Of those of matplotlib, the ones that have Latin letters in a style of text.
_FONTS = (
  'DejaVuSans.ttf',
  'DejaVuSans-*.ttf',
  'DejaVuSansMono*.ttf',
  'DejaVuSerif.ttf',
  'DejaVuSerif-*.ttf',
  'STIXGeneral*.ttf',
  *('cmb10.ttf', 'cmr10.ttf', 'cmss10.ttf', 'cmti10.ttf', 'cmtt10.ttf'),
)


def draw_letters(
  each: int = EACH,
) -> tuple[UInt8[np.ndarray, 'I 28 28'], Int[np.ndarray, 'I']]:
  """Pictures and their labels, those of `LETTERS` by their order.

  Args:
    each: pictures of each letter; the first ones are always the same.
  """
  fonts = _fonts()
  seeds = list(np.ndindex(len(LETTERS), each))
  images = [
    _draw(LETTERS[seed[0]], fonts, np.random.default_rng(seed))
    for seed in seeds
  ]
  return np.stack(images), np.array([label for label, _ in seeds])


def make_folder(out: str, each: int = EACH) -> None:
  """Writes `draw_letters` as FOLDER/A/000.png and so on.

  Args:
    out: the folder, which is made.
    each: pictures of each letter.

  Raises:
    UserError: the folder has files already.
  """
  if any(pathlib.Path(out).glob('*')):
    raise UserError(f'{out} is not empty: name a new folder for the letters.')
  for number, (image, label) in enumerate(zip(*draw_letters(each))):
    folder = pathlib.Path(out) / LETTERS[label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f'{number % each:03}.png')


def predict(images: UInt8[np.ndarray, 'B 28 28 C']) -> Int[np.ndarray, 'B']:
  """The letter that each image shows, as its label.

  Raises:
    UserError: the images are not uint8 [B, 28, 28, 1 or 3].
  """
  return _classifier().predict(grey_pixels(images))


@functools.cache
def _classifier():
  from sklearn.svm import SVC

  images, labels = draw_letters()
  return SVC(C=C, gamma=GAMMA).fit(grey_pixels(images[..., None]), labels)


def _fonts() -> list[str]:
  import matplotlib

  folder = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
  return [str(path) for name in _FONTS for path in sorted(folder.glob(name))]


def _draw(
  letter: str, fonts: Sequence[str], rng: np.random.Generator
) -> UInt8[np.ndarray, '28 28']:
  """A letter of 20 pixels or less, in the middle."""
  side = SIDE * _FINE
  font = fonts[int(rng.integers(len(fonts)))]
  large = Image.new('L', (2 * side, 2 * side))
  ImageDraw.Draw(large).text(
    (side, side),
    letter,
    fill=255,
    font=ImageFont.truetype(font, side),
    anchor='mm',
    stroke_width=int(rng.integers(6)),
  )
  slant, angle = rng.uniform(-0.2, 0.2), rng.uniform(-12, 12)
  large = large.transform(
    large.size,
    Image.Transform.AFFINE,
    (1, slant, -slant * side, 0, 1, 0),
    Image.Resampling.BILINEAR,
  ).rotate(angle, Image.Resampling.BILINEAR)
  letter_only = large.crop(large.getbbox())
  size = SIDE * rng.uniform(0.6, 0.72) / max(letter_only.size)
  width, height = (max(1, round(n * size)) for n in letter_only.size)
  small = letter_only.resize((width, height), Image.Resampling.LANCZOS)
  picture = Image.new('L', (SIDE, SIDE))
  picture.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
  return np.asarray(picture)


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit('python -m pixeldit_jax.demo.letters FOLDER|SAMPLES.npz')
  path = sys.argv[1]
  if path.endswith('.npz'):
    with np.load(path) as arrays:
      share = class_agreement(predict(arrays['arr_0']), arrays['arr_1'])
    print(f'{share:.1%} show the letter that was asked for')
  else:
    make_folder(path)
    print(f'{EACH} pictures of each of {", ".join(LETTERS)} in {path}')
