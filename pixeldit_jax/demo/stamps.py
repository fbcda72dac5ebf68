"""Captioned drawings that a Linux system carries: the stamps of Tux Paint.

  python -m pixeldit_jax.demo.stamps FOLDER

makes a folder for `pixeldit prepare-data --source=images:FOLDER` of the Debian
package tuxpaint-stamps-default: about 800 pictures with a line of English each,
of several licences, those of the package.
"""

import csv
import pathlib
import sys

from PIL import Image

from pixeldit_jax.errors import MissingFileError

INSTALLED = pathlib.Path('/usr/share/tuxpaint/stamps')


def make_folder(
  out: str, stamps: pathlib.Path = INSTALLED, side: int = 256
) -> int:
  """Copies the pictures that have a caption, on white squares.

  Args:
    out: the folder; made if absent.
    stamps: the folder of the package.
    side: of the largest pictures in pixels; others keep their size.

  Returns:
    How many there are.

  Raises:
    MissingFileError: the package is not installed.
  """
  paths = [
    path for path in sorted(stamps.rglob('*.png')) if _text(path).is_file()
  ]
  if not paths:
    raise MissingFileError(
      f'{stamps} has no stamps: apt-get install tuxpaint-stamps-default.'
    )
  folder = pathlib.Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / 'metadata.csv').open('w', newline='') as file:
    rows = csv.writer(file)
    rows.writerow(('file_name', 'caption'))
    for path in paths:
      name = '_'.join(path.relative_to(stamps).parts)
      with Image.open(path) as picture:
        _square(picture.convert('RGBA'), side).save(folder / name)
      # The first line is English, the others are translations.
      lines = _text(path).read_text('utf-8', 'replace').splitlines()
      rows.writerow((name, lines[0].strip() if lines else ''))
  return len(paths)


def _text(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix('.txt')


def _square(picture: Image.Image, side: int) -> Image.Image:
  """The whole picture in the middle of a white square."""
  longest = max(picture.size)
  square = Image.new('RGBA', (longest, longest), 'white')
  corner = [(longest - length) // 2 for length in picture.size]
  square.alpha_composite(picture, (corner[0], corner[1]))
  square.thumbnail((side, side), Image.Resampling.LANCZOS)
  return square.convert('RGB')


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit('python -m pixeldit_jax.demo.stamps FOLDER')
  print(f'{make_folder(sys.argv[1])} pictures with captions in {sys.argv[1]}')
