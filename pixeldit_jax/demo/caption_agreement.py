"""Measures how well images agree with prompts of captioned digits, offline.

A drawn digit is resized and centred in a grey 28 x 28 image, as in MNIST, for
`digit_classifier`; its colour is the nearest in direction to the mean of its
pixels, weighted by their brightness.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pixeldit_jax.data.sources.captioned_digits import COLOURS, SCALE, WORDS
from pixeldit_jax.data.sources.mnist_digits import SIDE
from pixeldit_jax.demo import digit_classifier
from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Bool, UInt8


def parse_prompt(prompt: str) -> tuple[int, str]:
  """The digit and the colour that a prompt names.

  Raises:
    UserError: it does not name one of each.
  """
  words = re.findall(r'\w+', prompt.lower())
  named = [WORDS.index(w) for w in words if w in WORDS]
  named += [int(w) for w in words if len(w) == 1 and w.isdigit()]
  colours = [w for w in words if w in COLOURS]
  if len(named) != 1 or len(colours) != 1:
    raise UserError(
      f'prompt {prompt!r} names {len(named)} digits and {len(colours)} '
      'colours; one of each is expected.'
    )
  return named[0], colours[0]


def centre_digits(
  images: UInt8[np.ndarray, 'B H W 3'],
) -> UInt8[np.ndarray, 'B 28 28 1']:
  """The brightness of images, with the centre of mass in the middle."""
  side = SIDE
  _, height, width, _ = images.shape
  size = round(width / SCALE), round(height / SCALE)
  result = np.zeros((len(images), side, side, 1), np.uint8)
  for centred, small in zip(result, images.max(axis=-1)):
    resized = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    image = np.asarray(resized)
    rows, columns = (np.arange(size) for size in image.shape)
    mass = max(1.0, image.sum(dtype=np.float64))
    down = round(float(image.sum(axis=1) @ rows / mass))
    right = round(float(image.sum(axis=0) @ columns / mass))
    # With so much black around it, any 28 x 28 pixels are inside.
    wide = np.pad(image, side)[down + side // 2 :, right + side // 2 :]
    centred[..., 0] = wide[:side, :side]
  return result


def main_colours(images: UInt8[np.ndarray, 'B H W 3']) -> list[str]:
  """The name of the colour of the bright pixels in each image."""
  weights = images.max(axis=-1, keepdims=True).astype(np.float64)
  means_BC = (weights * images).sum(axis=(1, 2))
  table = np.array(list(COLOURS.values()), np.float64)
  table /= np.linalg.norm(table, axis=1, keepdims=True)
  names = list(COLOURS)
  return [names[k] for k in (means_BC @ table.T).argmax(axis=1)]


def agreement(
  images: UInt8[np.ndarray, 'B H W 3'], prompts: list[str]
) -> dict[str, float]:
  """Shares of images with the digit, the colour and both of their prompts.

  Raises:
    UserError: not one prompt for each image, or prompts without one digit and
      one colour.
  """
  if len(images) != len(prompts) or not prompts:
    raise UserError(f'{len(images)} images came for {len(prompts)} prompts.')
  digit, colour = shown_of(images, prompts)
  shares = dict(digit=digit, colour=colour, both=digit & colour)
  return {name: float(right.mean()) for name, right in shares.items()}


def shown_of(
  images: UInt8[np.ndarray, 'B H W 3'], prompts: Sequence[str]
) -> tuple[Bool[np.ndarray, 'B'], Bool[np.ndarray, 'B']]:
  """Whether each image shows the digit, and the colour, of its prompt.

  Raises:
    UserError: see `parse_prompt`.
  """
  wanted = [parse_prompt(prompt) for prompt in prompts]
  shown = digit_classifier.predict(centre_digits(images))
  digit = shown == [d for d, _ in wanted]
  colour = np.array(main_colours(images)) == [c for _, c in wanted]
  return digit, colour


def agrees(
  images: UInt8[np.ndarray, 'B H W 3'], prompts: Sequence[str]
) -> Bool[np.ndarray, 'B']:
  """Whether each image shows both of its prompt."""
  return np.logical_and(*shown_of(images, prompts))


def main(npz: str, prompts: str) -> None:
  """Prints how well the images of an `.npz` agree with a file of prompts."""
  with np.load(npz) as file:
    images = file['arr_0']
  lines = pathlib.Path(prompts).read_text(encoding='utf-8').splitlines()
  found = agreement(images, lines)
  print(
    f'{found["both"]:.1%} of {len(lines)} samples show the digit and the '
    f'colour that were asked for (digit {found["digit"]:.1%}, colour '
    f'{found["colour"]:.1%}), in combinations that were never trained on. The '
    'classifier of digits is right for 96% of real ones.'
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
