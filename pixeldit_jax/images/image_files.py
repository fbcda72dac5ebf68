"""Image files of users: which names in a folder count, and how they are opened.

Every part that lists a user's folder uses this: data sources, evaluation,
prompts. Folders and files that operating systems and disk servers leave behind
are passed over; links are followed, each folder is visited once.
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from pixeldit_jax import files
from pixeldit_jax.errors import TooLargeError

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked, and can be raised
_PNG = b'\x89PNG\r\n\x1a\n'
# The formats that Pillow reads, by the endings that they go by.
IMAGE_SUFFIXES = (
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.png',
  '.webp',
  '.bmp',
  '.gif',
  '.tif',
  '.tiff',
  '.avif',
  '.jp2',
  '.ppm',
  '.pgm',
  '.tga',
)
# In lower case. Names that begin with a dot are passed over as well: '.git',
# '.DS_Store', and the '._name' that macOS writes next to each file.
_SYSTEM_FOLDERS = frozenset(
  {
    '__macosx',  # a zip made by macOS
    '@eadir',  # Synology's thumbnails
    '@tmp',
    '#recycle',
    '#snapshot',
    '$recycle.bin',
    'recycler',
    'system volume information',
    'lost+found',
    '__pycache__',
  }
)
_SYSTEM_FILES = frozenset({'thumbs.db', 'desktop.ini', 'ehthumbs.db'})


def is_image(name: str) -> bool:
  """Whether a file is an image by the ending of its name."""
  return name.lower().endswith(IMAGE_SUFFIXES)


def is_left_behind(name: str) -> bool:
  """Whether a file or folder is an operating system's, not the user's."""
  lower = name.lower()
  return (
    name.startswith('.') or lower in _SYSTEM_FOLDERS or lower in _SYSTEM_FILES
  )


def walk(root: str | os.PathLike) -> Iterator[tuple[str, list[str]]]:
  """Yields each folder under `root`, '' first, and the names of its files.

  Paths are relative to `root`, with '/' between names, in no promised order.
  Links to folders are followed after all real folders, so that a folder keeps
  its own path where a link leads to it too, and a link upwards ends.

  Args:
    root: the folder.
  """
  root = os.fspath(root)
  seen: set[tuple[int, int]] = set()
  folders, links = [''], list[str]()
  while folders or links:
    inside = folders.pop() if folders else links.pop()
    path = os.path.join(root, inside)
    try:
      status = os.stat(path)
    except OSError:
      continue  # a link that leads nowhere
    identity = status.st_dev, status.st_ino
    if identity in seen:
      continue
    seen.add(identity)
    files = []
    with os.scandir(path) as entries:
      for entry in sorted(entries, key=lambda e: e.name, reverse=True):
        if is_left_behind(entry.name):
          continue
        name = f'{inside}/{entry.name}' if inside else entry.name
        if not entry.is_dir():
          files.append(entry.name)
        elif entry.is_symlink():
          links.append(name)
        else:
          folders.append(name)
    yield inside, files[::-1]


def open_image(data: bytes) -> Image.Image:
  """Opens an encoded image, whose pixels are not decoded yet.

  Raises:
    UnidentifiedImageError: no format that Pillow knows.
    TooLargeError: it has more pixels than are decoded.
    OSError, SyntaxError, ...: whatever a broken file leads the reader to; a
      PNG whose checksums do not match.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    try:
      image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
      if not data.startswith(_PNG):
        raise
      image = Image.open(io.BytesIO(_without_broken_metadata(data)))
  if data.startswith(_PNG):
    _check_png(data)
  pixels, limit = image.width * image.height, files.limit_of(files.MAX_PIXELS)
  if pixels > limit:
    raise TooLargeError(
      f'{image.width} x {image.height} pixels, more than the {limit:,} that '
      f'are decoded; --max_pixels={pixels} allows it, or {files.MAX_PIXELS} '
      'in the environment'
    )
  return image


def _chunks_of_png(png: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
  """Yields the name, bytes and intactness of each chunk up to IEND."""
  view, start, name = memoryview(png), len(_PNG), b''
  while start + 8 <= len(png) and name != b'IEND':
    length, name = struct.unpack_from('>I4s', png, start)
    chunk = view[start : start + 12 + length]
    checksum = zlib.crc32(chunk[4:-4]).to_bytes(4, 'big')
    yield name, chunk, checksum == chunk[-4:]
    start += 12 + length


def _changes_pixels(name: bytes) -> bool:
  """Whether what a chunk of a PNG holds is seen: the others are metadata."""
  return not name[0] & 32 or name == b'tRNS'


def _without_broken_metadata(png: bytes) -> bytes:
  """A PNG without metadata whose checksum differs: Pillow refuses them all."""
  kept = [
    chunk
    for name, chunk, intact in _chunks_of_png(png)
    if intact or _changes_pixels(name)
  ]
  return b''.join([_PNG, *kept])


def _check_png(png: bytes) -> None:
  """Raises OSError for pixels of another checksum, which Pillow passes over."""
  for name, chunk, intact in _chunks_of_png(png):
    if intact or not _changes_pixels(name):
      continue
    if len(chunk) < 12 + int.from_bytes(chunk[:4], 'big'):
      raise OSError('the image file is truncated')
    raise OSError(f'the checksum of {name.decode("latin-1")} does not match')
