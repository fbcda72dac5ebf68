"""Makes a folder of JPEG photographs of mixed size, to measure preparation.

python tests/data/photographs.py /tmp/photographs 5000

They are crops of the three photographs inside the wheels of scikit-learn and
matplotlib, enlarged or reduced: short sides of 200 to 1,200 pixels, ratios from
1:2 to 2:1, qualities 75 to 95, in ten classes.
"""

import functools
import pathlib
import sys

import numpy as np
from PIL import Image


@functools.cache
def originals() -> list[Image.Image]:
  """The photographs as they come."""
  import matplotlib.cbook
  import sklearn.datasets

  pixels = sklearn.datasets.load_sample_images().images
  with matplotlib.cbook.get_sample_data('grace_hopper.jpg') as file:
    return [*map(Image.fromarray, pixels), Image.open(file).convert('RGB')]


def photograph(i: int) -> tuple[Image.Image, int]:
  """The i-th photograph and its JPEG quality; the same on every machine."""
  rng = np.random.default_rng(i)
  image = originals()[rng.integers(len(originals()))]
  share = rng.uniform(0.5, 1.0, 2)
  width, height = (int(s) for s in share * image.size)
  left = rng.integers(image.width - width + 1)
  top = rng.integers(image.height - height + 1)
  short, ratio = np.exp(rng.uniform(np.log([200, 0.5]), np.log([1200, 2])))
  size = int(short * max(1, ratio)), int(short * max(1, 1 / ratio))
  box = (left, top, left + width, top + height)
  return image.resize(size, box=box), int(rng.integers(75, 96))


def make(folder: str | pathlib.Path, count: int) -> None:
  """Writes `count` photographs under a folder, in ten class folders."""
  for i in range(count):
    path = pathlib.Path(folder, f'class{i % 10}', f'{i:06d}.jpg')
    path.parent.mkdir(parents=True, exist_ok=True)
    image, quality = photograph(i)
    image.save(path, quality=quality)


if __name__ == '__main__':
  make(sys.argv[1], int(sys.argv[2]))
